"""A metadata store's file that is damaged: refused with a storage error, or everything in it is as it was written."""

import random

import pytest

from callboard.errors import StorageError
from callboard.storage.metadata_store import SqliteStore, Transaction, Write

from .corpus import DOCUMENTS
from .mutation import mutated


def a_store_file(path):
    store = SqliteStore(str(path))
    store.load()
    store.apply([Transaction([Write(key, value, 0) for key, value in DOCUMENTS.items()])])
    store.close()
    return path.read_bytes()


def damage_and_open(tmp_path, inputs, seed):
    """Return how many damaged files were refused."""
    sound = a_store_file(tmp_path / "sound.db")
    chance, refused = random.Random(seed), 0
    for number in range(inputs):
        path = tmp_path / f"{number}.db"
        path.write_bytes(mutated(chance, sound))
        try:
            store = SqliteStore(str(path))
            try:
                found = {document.key: document.value for document in store.load()}
            finally:
                store.close()
        except StorageError:
            refused += 1
        else:
            assert found.items() <= DOCUMENTS.items(), f"input {number} of seed {seed}"
        for left in tmp_path.glob(f"{number}.db*"):
            left.unlink()
    return refused


def test_a_damaged_store_is_refused_or_unharmed(tmp_path):
    assert damage_and_open(tmp_path, 150, seed=1) > 30


@pytest.mark.long
def test_thousands_of_damaged_stores(tmp_path):
    assert damage_and_open(tmp_path, 3_000, seed=2) > 600
