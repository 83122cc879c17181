"""Watches: a delta misses nothing, a gap is known as one."""

from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.metadata.changes import ChangeLog, Watch, Watches
from callboard.storage.metadata_store import StoredDocument


def changed(log, *keys, deleted=False):
    version = log.version + 1
    log.add(version, [StoredDocument(key, version, None if deleted else {"v": version}) for key in keys])


def keys(documents):
    return [document.key for document in documents]


def test_a_delta_is_what_changed_since_oldest_first():
    log = ChangeLog(0)
    changed(log, "a")
    changed(log, "b", "c")
    changed(log, "d")

    assert keys(log.since(0)) == ["a", "b", "c", "d"]
    assert keys(log.since(1)) == ["b", "c", "d"]
    assert log.since(3) == []


def test_a_document_that_changed_twice_is_told_once_as_it_is_now():
    log = ChangeLog(0)
    changed(log, "a")
    changed(log, "b")
    changed(log, "a", deleted=True)

    assert log.since(0) == [StoredDocument("b", 2, {"v": 2}), StoredDocument("a", 3, None)]


def test_what_is_forgotten_is_a_gap():  # B29
    log = ChangeLog(0, changes_max=2)
    for key in "abc":
        changed(log, key)

    assert log.since(0) is None
    assert keys(log.since(1)) == ["b", "c"]


def test_a_version_from_before_this_life_or_from_the_future_is_a_gap():  # B29
    log = ChangeLog(10)

    assert log.since(9) is None
    assert log.since(10) == []
    assert log.since(11) is None


@given(
    transactions=st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True), max_size=30),
    remembered=st.integers(1, 8),
    deletes=st.sets(st.integers(0, 29)),
)
def test_a_picture_brought_up_by_any_delta_is_the_present_one(transactions, remembered, deletes):
    log = ChangeLog(0, changes_max=remembered)
    pictures = [{}]
    for number, touched in enumerate(transactions):
        changed(log, *touched, deleted=number in deletes)
        picture = dict(pictures[-1])
        for key in touched:
            picture[key] = None if number in deletes else {"v": number + 1}
        pictures.append(picture)

    for version, picture in enumerate(pictures):
        delta = log.since(version)
        if delta is not None:
            assert {**picture, **{one.key: one.value for one in delta}} == pictures[-1]
            assert [one.version for one in delta] == sorted(one.version for one in delta)
    assert log.since(len(transactions)) == []


def a_watch(peer=b"p", request_id=1, after_version=0, deadline_ms=100):
    return Watch(peer, request_id, after_version, deadline_ms)


def test_a_watch_is_due_when_there_is_news_for_it():
    watches = Watches()
    watches.park(a_watch(after_version=5))

    assert watches.due(5) == []
    assert watches.due(6) == [a_watch(after_version=5)]
    assert watches.due(7) == []


def test_a_watch_has_a_deadline():
    watches = Watches()
    watches.park(a_watch(deadline_ms=100))

    assert watches.next_deadline_ms() == 100
    assert watches.expired(99) == []
    assert watches.expired(100) == [a_watch(deadline_ms=100)]
    assert watches.next_deadline_ms() is None


def test_a_peer_has_one_watch():
    watches = Watches()
    assert watches.park(a_watch(request_id=1)) is None

    assert watches.park(a_watch(request_id=2)) == a_watch(request_id=1)
    assert len(watches) == 1


def test_a_watch_too_many_is_answered_at_once(monkeypatch):
    monkeypatch.setattr("callboard.actors.metadata.changes.WATCHES_MAX", 1)
    watches = Watches()
    watches.park(a_watch(b"p"))

    assert watches.park(a_watch(b"q")) == a_watch(b"q")
    assert len(watches) == 1
