"""The sparse index and its file."""

from __future__ import annotations

from callboard.storage.index import NO_TIMESTAMP, SparseIndex, load_index


def an_index() -> SparseIndex:
    """Batches of 10 offsets and 100 bytes, an entry every 250 bytes; timestamps 1,000 + offset."""
    index, greatest = SparseIndex(250), NO_TIMESTAMP
    for n in range(9):
        index.add(50 + 10 * n, 100 * n, greatest)
        greatest = 1_000 + 50 + 10 * n + 9
    return index


def test_an_entry_is_made_for_every_interval():
    index = an_index()

    assert list(index.positions) == [0, 300, 600]
    assert list(index.offsets) == [50, 80, 110]
    assert list(index.timestamps) == [NO_TIMESTAMP, 1_079, 1_109]


def test_without_an_interval_every_batch_has_an_entry():
    index = SparseIndex(0)
    for n in range(5):
        index.add(n, n * 70, 0)

    assert len(index) == 5


def test_lookups_give_the_entry_before():
    index = an_index()

    assert [index.position_before(offset) for offset in (0, 50, 79, 80, 109, 110, 999)] == [0, 0, 0, 300, 300, 600, 600]
    assert [index.boundary_before(position) for position in (0, 299, 300, 599, 600, 9_999)] == [
        0,
        0,
        300,
        300,
        600,
        600,
    ]
    assert [index.position_for_timestamp(t)[0] for t in (0, 1_079, 1_080, 1_109, 1_110)] == [0, 0, 300, 300, 600]


def test_cutting_forgets_what_lies_behind():
    index = an_index()

    index.truncate(301)
    assert list(index.positions) == [0, 300]
    index.truncate(300)
    assert list(index.positions) == [0]


def test_golden_bytes_of_the_file():
    index = SparseIndex(1)
    index.add(5, 0, NO_TIMESTAMP)
    index.add(7, 120, 9)

    assert index.to_bytes(5, 240, 9, 10) == bytes.fromhex(
        "43424958 01000000"  # CBIX, version 1
        "0500000000000000 f000000000000000 0900000000000000 0a00000000000000"  # base, size, next offset, timestamp
        "0200000000000000"  # entries
        "0500000000000000 0700000000000000"  # offsets
        "0000000000000000 7800000000000000"  # positions
        "0000000000000080 0900000000000000"  # timestamps
        "bf5c4fda"
    )


def test_a_file_is_read_back():
    index = an_index()

    found = load_index(index.to_bytes(50, 900, 140, 1_139), 50, 900, 250)

    assert found is not None
    assert (found.next_offset, found.max_timestamp) == (140, 1_139)
    assert found.entries.positions == index.positions
    assert found.entries.offsets == index.offsets
    assert found.entries.timestamps == index.timestamps


def test_a_file_that_does_not_fit_is_not_believed():
    data = an_index().to_bytes(50, 900, 140, 1_139)

    assert load_index(data, 51, 900, 250) is None, "of another segment"
    assert load_index(data, 50, 901, 250) is None, "the segment has grown"
    assert load_index(data + b"\0", 50, 900, 250) is None
    assert load_index(b"", 50, 900, 250) is None
    for size in range(len(data)):
        assert load_index(data[:size], 50, 900, 250) is None
    for at in range(len(data)):
        assert load_index(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], 50, 900, 250) is None
