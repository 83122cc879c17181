"""The store: compared and set, whole or not at all, durable, and damaged files refused."""

import os
import sqlite3
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.errors import InvariantViolated, StorageError, StorageFull
from callboard.storage.metadata_store import (
    ABSENT,
    ANY_VERSION,
    AllocateProducerIds,
    Committed,
    Conflict,
    ProducerIds,
    SqliteStore,
    StaleEpoch,
    StoredDocument,
    Transaction,
    Unstorable,
    Write,
)
from callboard.testing.metadata import MemoryDisk, MemoryStore


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "metadata.db")


@pytest.fixture
def opened(path):
    """Opens the file, again and again; the last one is closed in the end."""
    stores = []

    def open_store(**options):
        if stores:
            stores.pop().close()
        stores.append(SqliteStore(path, **options))
        stores[-1].load()
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def put(key, value, if_version=ABSENT):
    return Write(key, value, if_version)


def lease(epoch, holder="broker-1"):
    return Transaction([put("lease", {"holder": holder, "controller_epoch": epoch}, ANY_VERSION)])


def contents(store):
    return {document.key: (document.version, document.value) for document in store.load()}


def test_what_was_applied_is_there_after_reopening(opened):
    store = opened()
    store.apply([Transaction([put("topic/a", {"n": 1}), put("topic/b", {"n": 2})]), Transaction([put("c", {})])])

    assert contents(opened()) == {"topic/a": (1, {"n": 1}), "topic/b": (1, {"n": 2}), "c": (2, {})}


def test_each_transaction_makes_one_version_and_tells_its_documents(opened):
    outcome = opened().apply([Transaction([put("a", {"x": 1}), put("b", {})])])

    assert outcome == [Committed(1, (StoredDocument("a", 1, {"x": 1}), StoredDocument("b", 1, {})))]


def test_a_transaction_without_writes_changes_nothing(opened):
    store = opened()

    assert store.apply([Transaction([])]) == [Committed(0)]


def test_a_write_on_another_version_is_refused_and_nothing_of_its_transaction_happens(opened):
    store = opened()
    store.apply([Transaction([put("a", {"n": 1})])])

    refused = store.apply([Transaction([put("b", {}), put("a", {"n": 2}, if_version=7)])])

    assert refused == [Conflict("a", expected=7, found=1)]
    assert contents(opened()) == {"a": (1, {"n": 1})}


def test_a_document_that_must_be_absent_conflicts_when_it_is_there(opened):
    store = opened()
    store.apply([Transaction([put("a", {})])])

    assert store.apply([Transaction([put("a", {}, ABSENT)])]) == [Conflict("a", ABSENT, 1)]


def test_operations_of_one_group_see_those_before_them(opened):
    store = opened()

    outcomes = store.apply(
        [Transaction([put("a", {"n": 1})]), Transaction([put("a", {"n": 2}, 1)]), Transaction([put("a", {"n": 3}, 1)])]
    )

    assert [type(outcome) for outcome in outcomes] == [Committed, Committed, Conflict]
    assert contents(opened()) == {"a": (2, {"n": 2})}


def test_a_deleted_document_is_gone_and_may_be_made_again_at_a_higher_version(opened):
    store = opened()
    store.apply([Transaction([put("a", {"n": 1})]), Transaction([put("a", None, 1)])])
    assert contents(opened()) == {}

    opened().apply([Transaction([put("a", {"n": 2}, ABSENT)])])
    assert contents(opened()) == {"a": (3, {"n": 2})}


def test_a_commit_of_an_older_controller_epoch_is_refused(opened):  # B26, F9
    store = opened()
    store.apply([lease(1), lease(2, "broker-2")])

    assert store.apply([Transaction([put("a", {})], controller_epoch=1)]) == [StaleEpoch(2, is_held=True)]
    assert isinstance(store.apply([Transaction([put("a", {})], controller_epoch=2)])[0], Committed)


def test_every_commit_is_synced(path):  # R8
    store = SqliteStore(path)
    try:
        modes = [store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]
    finally:
        store.close()

    assert modes == [2, "wal"]  # 2: FULL; with NORMAL power loss takes commits back, and epochs with them


def test_the_controller_epoch_that_commits_are_compared_with_never_goes_back(opened):  # R8
    store = opened()
    store.apply([lease(2), lease(1)])

    assert store.apply([Transaction([put("a", {})], controller_epoch=1)]) == [StaleEpoch(2, is_held=True)]


def test_a_commit_under_a_lease_that_has_ended_is_refused_even_if_nobody_was_elected_since(opened):  # F9
    store = opened()
    store.apply([lease(1), lease(1, holder="")])

    assert store.apply([Transaction([put("a", {})], controller_epoch=1)]) == [StaleEpoch(1, is_held=False)]


def test_a_commit_behind_a_new_lease_in_the_same_group_is_compared_with_it(opened):  # B26
    store = opened()
    store.apply([lease(1)])

    outcomes = store.apply([Transaction([put("a", {})], 1), lease(2, "broker-2"), Transaction([put("b", {})], 1)])

    assert isinstance(outcomes[0], Committed)
    assert outcomes[2] == StaleEpoch(2, is_held=True)


def test_the_epoch_is_compared_after_reopening_too(opened):
    opened().apply([lease(4)])

    assert opened().apply([Transaction([put("a", {})], controller_epoch=3)]) == [StaleEpoch(4, is_held=True)]


def test_producer_ids_are_disjoint_across_reopening(opened):
    first = opened().apply([AllocateProducerIds(10), AllocateProducerIds(5)])
    second = opened().apply([AllocateProducerIds(10)])

    assert first == [ProducerIds(0, 10), ProducerIds(10, 5)]
    assert second == [ProducerIds(15, 10)]


def test_a_value_that_is_no_json_is_refused_alone(opened):
    store = opened()

    outcomes = store.apply([Transaction([put("a", {"n": 1 << 70})]), Transaction([put("b", {})])])

    assert isinstance(outcomes[0], Unstorable)
    assert isinstance(outcomes[1], Committed)
    assert contents(opened()) == {"b": (1, {})}


def test_only_the_owner_may_read_the_file(opened, path):
    os.close(os.open(path, os.O_CREAT, 0o644))
    opened().apply([Transaction([put("a", {})])])

    modes = {
        name: stat.S_IMODE(os.stat(os.path.join(os.path.dirname(path), name)).st_mode)
        for name in os.listdir(os.path.dirname(path))
    }
    assert set(modes.values()) == {0o600}, modes


def test_a_second_owner_is_refused(opened, path, monkeypatch):  # F27
    opened()
    monkeypatch.setattr("callboard.storage.metadata_store.BUSY_MS", 1)

    with pytest.raises(StorageError, match="another process has it open"):
        SqliteStore(path)


def test_a_network_file_system_is_refused(path):  # F27
    with pytest.raises(StorageError, match="nfs4"):
        SqliteStore(path, filesystem_of=lambda _: "nfs4")


def test_a_directory_that_is_not_there_is_an_error_of_one_line(tmp_path):
    with pytest.raises(StorageError, match="cannot be opened: No such file"):
        SqliteStore(str(tmp_path / "missing" / "metadata.db"))


def test_what_is_no_database_is_refused(path):
    with open(path, "wb") as file:
        file.write(b"#" * 5_000)

    with pytest.raises(StorageError, match="damaged"):
        SqliteStore(path)


def test_a_database_of_somebody_else_is_refused(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()

    with pytest.raises(StorageError, match="not a Callboard metadata store"):
        SqliteStore(path)


def test_a_newer_format_is_refused(opened, path):
    opened().close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(StorageError, match="newer Callboard"):
        SqliteStore(path)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE documents SET value = '{\"n\":2}' WHERE key = 'a'",
        "UPDATE documents SET version = 1 WHERE key = 'b'",
        "UPDATE documents SET key = 'z' WHERE key = 'a'",
        "DELETE FROM counters WHERE name = 'version'",
        "UPDATE counters SET value = 0 WHERE name = 'version'",
    ],
)
def test_rows_that_were_changed_behind_its_back_are_found(opened, path, damage):
    store = opened()
    store.apply([Transaction([put("a", {"n": 1})]), Transaction([put("b", {"n": 1})])])
    store.close()
    connection = sqlite3.connect(path)
    connection.execute(damage)
    connection.commit()
    connection.close()

    with pytest.raises(StorageError):
        opened()


def test_any_flipped_byte_is_found_or_harmless(opened, path):  # F27
    store = opened()
    store.apply([Transaction([put(f"partition/t/{n}", {"leader": n})]) for n in range(40)])
    store.close()
    whole = contents(opened())
    opened().close()
    with open(path, "rb") as file:
        sound = file.read()

    refused = 0
    for position in range(0, len(sound), 97):
        with open(path, "wb") as file:
            file.write(sound[:position] + bytes([sound[position] ^ 0x41]) + sound[position + 1 :])
        try:
            assert contents(opened()) == whole, position
        except StorageError:
            refused += 1
    assert refused > 20  # the rest hit pages that hold nothing


def test_a_foreign_writer_is_noticed_before_anything_is_written(opened):
    store = opened()
    store.apply([Transaction([put("a", {})])])
    store._connection.execute("UPDATE counters SET value = 9 WHERE name = 'version'")

    with pytest.raises(InvariantViolated, match="somebody else wrote"):
        store.apply([Transaction([put("b", {})])])
    with pytest.raises(StorageError, match="opened anew"):
        store.apply([Transaction([put("b", {})])])


def test_a_failed_write_breaks_the_store_until_it_is_opened_anew():
    disk = MemoryDisk()
    store = MemoryStore(disk)
    store.apply([Transaction([put("a", {})])])

    def full():
        raise StorageError("no space left")

    disk.before_write = full
    with pytest.raises(StorageError, match="no space"):
        store.apply([Transaction([put("b", {})])])
    disk.before_write = None
    with pytest.raises(StorageError, match="opened anew"):
        store.apply([Transaction([put("c", {})])])

    store.close()
    assert contents(MemoryStore(disk)) == {"a": (1, {})}


def test_a_group_is_one_write():
    disk = MemoryDisk()

    MemoryStore(disk).apply([Transaction([put(f"k{n}", {})]) for n in range(100)])

    assert disk.groups == 1


KEYS = st.sampled_from(["a", "b", "lease", "c"])
WRITES = st.builds(
    Write,
    KEYS,
    st.one_of(
        st.none(), st.fixed_dictionaries({"holder": st.sampled_from(["", "x"]), "controller_epoch": st.integers(0, 3)})
    ),
    st.integers(-1, 6),
)
OPERATIONS = st.one_of(
    st.builds(
        Transaction,
        st.lists(WRITES, max_size=3, unique_by=lambda write: write.key),
        st.one_of(st.none(), st.integers(0, 3)),
    ),
    st.builds(AllocateProducerIds, st.integers(1, 5)),
)


@settings(max_examples=60, deadline=None)
@given(groups=st.lists(st.lists(OPERATIONS, max_size=4), max_size=6), reopen=st.lists(st.booleans(), min_size=6))
def test_file_and_memory_agree_with_a_plain_model_whatever_the_grouping(tmp_path_factory, groups, reopen):
    path = str(tmp_path_factory.mktemp("store") / "metadata.db")
    disk = MemoryDisk()
    memory, file = MemoryStore(disk), SqliteStore(path)
    file.load()
    try:
        model, version, next_id = {}, 0, 0
        for group, again in zip(groups, reopen, strict=False):
            outcomes = file.apply(group)
            assert memory.apply(group) == outcomes
            for operation, outcome in zip(group, outcomes, strict=True):
                if isinstance(operation, AllocateProducerIds):
                    assert outcome == ProducerIds(next_id, operation.count)
                    next_id += operation.count
                    continue
                held = model.get("lease", (0, {"holder": "", "controller_epoch": 0}))[1]
                stale = operation.controller_epoch is not None and not (
                    held["holder"] and held["controller_epoch"] == operation.controller_epoch
                )
                matches = all(
                    write.if_version in (ANY_VERSION, model.get(write.key, (ABSENT,))[0]) for write in operation.writes
                )
                if isinstance(outcome, Committed):
                    assert matches
                    if operation.writes:
                        version += 1
                        for write in operation.writes:
                            if write.value is None:
                                model.pop(write.key, None)
                            else:
                                model[write.key] = (version, write.value)
                    assert outcome.version == version
                elif isinstance(outcome, Conflict):
                    assert not matches
                else:
                    assert isinstance(outcome, StaleEpoch)
                    # The epoch compared with is the highest there ever was: it may be stale where the model's is not.
                    assert stale or outcome.controller_epoch > operation.controller_epoch
            if again:
                file.close()
                file = SqliteStore(path)
                # Only the memory of a lease's highest epoch is lost when the document itself is deleted or lowered.
                memory.close()
                memory = MemoryStore(disk)
                memory.load()
            assert {one.key: (one.version, one.value) for one in file.load()} == model
            assert (file.version, file.next_producer_id) == (version, next_id)
    finally:
        file.close()


def test_a_full_disk_writes_nothing_and_the_same_is_taken_when_there_is_room(path, opened):
    store = opened()
    store.apply([lease(1), Transaction([put("topic/a", {})])])
    before = contents(store)
    group = [lease(2), Transaction([put("topic/b", {"x": "y" * 100_000})], controller_epoch=2), AllocateProducerIds(5)]
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")

    for _ in range(2):
        with pytest.raises(StorageFull):
            store.apply(group)

    assert contents(store) == before
    assert store.apply([Transaction([], controller_epoch=1)]) == [Committed(2)]  # the lease is as it was
    store._connection.execute("PRAGMA max_page_count = 1000000")
    assert store.apply(group)[-1] == ProducerIds(0, 5)
    assert contents(opened()).keys() == {"lease", "topic/a", "topic/b"}
