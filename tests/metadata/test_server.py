"""The metadata actor: durable before it is said, sessions and lease by the clock, watches, bounds."""

import pytest

from callboard.actors.metadata.server import MetadataServer
from callboard.actors.runtime import ChildFailed, ChildStarted
from callboard.config import BrokerSettings
from callboard.errors import CallboardError, ErrorCode, StorageError
from callboard.storage.metadata_store import SqliteStore
from callboard.testing.metadata import MemoryStore
from callboard.testing.metadata_cluster import ENDPOINT, MetadataCluster
from callboard.testing.probe import probe
from callboard.transport import messages as m


@pytest.fixture
def cluster():
    cluster = MetadataCluster()
    cluster.start_metadata()
    cluster.settle()
    return cluster


def open_session(cluster, name="broker-1", incarnation="a", **fields):
    document = {"kind": "broker", "broker_id": int(name[-1]), "machine": "m", "host": "h", "endpoints": ["tcp://x:1"]}
    request = m.OpenSessionRequest(name=name, incarnation=incarnation, document={**document, **fields})
    return cluster.ask_store(request)


def campaign(cluster, name="broker-1", incarnation="a"):
    return cluster.ask_store(m.CampaignRequest(name=name, incarnation=incarnation))


def commit(cluster, *puts, epoch=1):
    return cluster.ask_store(m.StoreCommitRequest(controller_epoch=epoch, puts=list(puts)))


def put(key="topic/a", value=None, if_version=0):
    return m.Put(key=key, value={"name": "a", "partitions": 1} if value is None else value, if_version=if_version)


def with_controller(cluster):
    open_session(cluster)
    assert campaign(cluster).error == 0
    return cluster


def asked(cluster, request):
    """Ask without waiting; the list gets the answer."""
    answers = []
    connection = cluster.context("watcher").transport.connect(ENDPOINT, client_id="w", on_state=lambda _: None)
    connection.request(request, lambda answer, _: answers.append(answer), timeout_ms=600_000)
    cluster.settle(5)
    return answers


def heartbeats(cluster, until_ms, name="broker-1", incarnation="a"):
    while cluster.clock.monotonic_ms() < until_ms:
        cluster.advance(250)
        assert cluster.ask_store(m.HeartbeatRequest(name=name, incarnation=incarnation)).error == 0


# -- the cluster -------------------------------------------------------------------------------------------


def test_a_new_store_gets_a_cluster_id_and_keeps_it(cluster):
    first = cluster.ask_store(m.StoreLoadRequest()).cluster_id
    assert len(first) == 32

    cluster.kill_metadata()
    cluster.start_metadata()

    assert cluster.ask_store(m.StoreLoadRequest()).cluster_id == first


def test_a_cluster_id_that_is_given_is_taken_and_another_refused_later(cluster):
    cluster.kill_metadata()
    cluster.disk.rows.clear()
    cluster.start_metadata(cluster_id="c" * 32)
    assert cluster.ask_store(m.StoreLoadRequest()).cluster_id == "c" * 32
    cluster.kill_metadata()

    ref = cluster.start_metadata(cluster_id="d" * 32)
    cluster.settle()

    assert not ref.is_alive()


def test_it_counts_as_started_when_it_serves():
    cluster = MetadataCluster()
    context = cluster.context("metadata")
    parent = probe(context)
    served = []
    MetadataServer.start(
        context,
        "metadata",
        parent.actor_ref,
        open_store=lambda: MemoryStore(cluster.disk),
        binds=[ENDPOINT],
        incarnation="x",
        on_serving=served.append,
    )
    assert not parent.told

    cluster.settle()

    assert len(parent.all_of(ChildStarted)) == 1
    assert served[0].endpoints == (ENDPOINT,)


def test_a_store_that_cannot_be_opened_fails_the_actor_with_the_stores_words():
    cluster = MetadataCluster()
    context = cluster.context("metadata")
    parent = probe(context)

    def refuse():
        raise StorageError("metadata.db: damaged")

    MetadataServer.start(context, "metadata", parent.actor_ref, open_store=refuse, binds=[ENDPOINT], incarnation="x")
    cluster.settle()

    (failed,) = parent.all_of(ChildFailed)
    assert (failed.phase, str(failed.exception)) == ("start", "metadata.db: damaged")


def test_an_actor_that_ends_while_the_store_is_being_opened_leaves_the_file_free():
    cluster = MetadataCluster()
    ref = cluster.start_metadata()
    ref.kill(RuntimeError("killed"))

    cluster.settle()

    assert cluster.disk.owner is None
    cluster.start_metadata()
    cluster.settle()
    assert cluster.metadata_ref.is_alive()


def test_an_actor_that_ends_while_a_group_is_being_written_leaves_the_file_free(cluster):
    asked(cluster, m.OpenSessionRequest(name="broker-1", incarnation="a"))
    cluster.disk.before_write = lambda: cluster.metadata_ref.kill(RuntimeError("killed"))
    asked(cluster, m.OpenSessionRequest(name="broker-2", incarnation="a"))
    cluster.disk.before_write = None

    cluster.settle()

    assert cluster.disk.owner is None


# -- durability --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        m.StoreCommitRequest(controller_epoch=1, puts=[put()]),
        m.OpenSessionRequest(name="broker-2", incarnation="b"),
        m.EndSessionRequest(name="broker-1"),
        m.ResignRequest(controller_epoch=1, name="broker-1"),
        m.CampaignRequest(name="broker-1", incarnation="a"),
        m.AllocateProducerIdsRequest(count=5),
    ],
)
def test_nothing_is_answered_or_shown_before_it_is_on_disk(cluster, request_):
    with_controller(cluster)
    version = cluster.disk.version
    snapshot = cluster.ask_store(m.StoreLoadRequest())
    watch = asked(cluster, m.StoreWatchRequest(store_incarnation=snapshot.store_incarnation, after_version=version))

    def fail():
        raise StorageError("the disk is gone")

    cluster.disk.before_write = fail
    answers = asked(cluster, request_)
    cluster.settle()

    assert all(isinstance(answer, CallboardError) for answer in answers + watch)
    assert not cluster.metadata_ref.is_alive()


def test_commits_that_come_while_one_is_written_share_the_next_write(cluster):
    with_controller(cluster)
    groups = cluster.disk.groups
    connection = cluster.context("test2").transport.connect(ENDPOINT, client_id="w", on_state=lambda _: None)
    answers = []

    for number in range(100):
        connection.request(
            m.StoreCommitRequest(controller_epoch=1, puts=[put(f"topic/{number}")]),
            lambda answer, _: answers.append(answer),
        )
    cluster.settle()

    assert [answer.error for answer in answers] == [0] * 100
    assert cluster.disk.groups - groups <= 3


# -- sessions ----------------------------------------------------------------------------------------------


def test_a_session_is_a_document_while_it_is_kept(cluster):
    open_session(cluster)
    heartbeats(cluster, 4_000)
    session = cluster.image.sessions["broker-1"]
    assert (session.incarnation, session.broker_id, session.endpoints) == ("a", 1, ("tcp://x:1",))

    cluster.advance(1_501)

    assert "broker-1" not in cluster.image.sessions
    assert cluster.ask_store(m.HeartbeatRequest(name="broker-1", incarnation="a")).error == ErrorCode.STALE_BROKER_EPOCH
    assert cluster.image.registrations[1].incarnation == "a"


def test_sessions_that_end_together_are_one_change(cluster):
    for number in range(1, 4):
        open_session(cluster, f"broker-{number}")
    version = cluster.disk.version

    cluster.advance(1_600)

    assert cluster.image.sessions == {}
    assert cluster.disk.version == version + 1


def test_a_host_that_saw_a_broker_die_ends_its_session_and_its_lease_at_once(cluster):
    with_controller(cluster)
    version = cluster.disk.version

    assert cluster.ask_store(m.EndSessionRequest(name="broker-1", incarnation="a", reason="killed")).error == 0

    assert (cluster.image.sessions, cluster.image.lease.holder) == ({}, "")
    assert cluster.disk.version == version + 1


def test_ending_an_earlier_life_ends_nothing(cluster):
    open_session(cluster, incarnation="b")

    assert cluster.ask_store(m.EndSessionRequest(name="broker-1", incarnation="a")).error == 0

    assert "broker-1" in cluster.image.sessions


def test_an_ended_incarnation_is_refused_even_by_a_restarted_metadata_process(cluster):  # B10
    open_session(cluster)
    cluster.ask_store(m.EndSessionRequest(name="broker-1"))
    cluster.kill_metadata()
    cluster.start_metadata()
    cluster.settle()

    assert open_session(cluster).error == ErrorCode.STALE_BROKER_EPOCH
    assert open_session(cluster, incarnation="b").error == 0


def test_after_its_own_restart_everybody_has_a_whole_timeout_to_be_heard_of(cluster):  # B27
    open_session(cluster)
    cluster.advance(1_000)
    cluster.kill_metadata()
    cluster.advance(60_000)
    cluster.start_metadata()

    cluster.advance(1_400)
    assert "broker-1" in cluster.image.sessions
    assert cluster.ask_store(m.HeartbeatRequest(name="broker-1", incarnation="a")).error == 0

    cluster.advance(1_600)
    assert "broker-1" not in cluster.image.sessions


def test_a_metadata_process_that_was_paused_does_not_end_whom_it_did_not_hear(cluster):
    """SIGSTOP, or a laptop's lid: its timer comes late, so it has slept and cannot judge."""
    with_controller(cluster)
    version = cluster.disk.version
    cluster.advance(200)
    cluster.loop.now_us += 10_000_000  # nothing of this process ran meanwhile

    cluster.advance(1_000)
    assert cluster.disk.version == version

    cluster.advance(2_000)  # but from now on silence counts
    assert cluster.image.sessions == {}


def test_a_session_says_more_of_itself_later(cluster):
    open_session(cluster)

    open_session(cluster, endpoints=["tcp://x:2"])

    assert cluster.image.sessions["broker-1"].endpoints == ("tcp://x:2",)


def test_opening_the_same_session_again_writes_nothing(cluster):
    open_session(cluster)
    groups = cluster.disk.groups

    assert open_session(cluster).error == 0

    assert cluster.disk.groups == groups


@pytest.mark.parametrize(
    "request_",
    [
        m.OpenSessionRequest(name="", incarnation="a"),
        m.OpenSessionRequest(name="a", incarnation=""),
        m.OpenSessionRequest(name="a/b", incarnation="a"),
        m.OpenSessionRequest(name="a", incarnation="a", document={"broker_id": "one"}),
        m.OpenSessionRequest(name="a", incarnation="a", document={"endpoints": 7}),
        m.OpenSessionRequest(name="a", incarnation="a", document={"note": "x" * 70_000}),
        m.StoreCommitRequest(controller_epoch=1, puts=[put("lease")]),
        m.StoreCommitRequest(controller_epoch=1, puts=[put("session/broker-2")]),
        m.StoreCommitRequest(controller_epoch=1, puts=[put("cluster")]),
        m.StoreCommitRequest(controller_epoch=1, puts=[put("topic/a", if_version=-1)]),
        m.AllocateProducerIdsRequest(count=0),
        m.AllocateProducerIdsRequest(count=1 << 40),
    ],
)
def test_requests_that_make_no_sense_are_refused_and_change_nothing(cluster, request_):
    with_controller(cluster)
    groups = cluster.disk.groups

    assert cluster.ask_store(request_).error == ErrorCode.INVALID_REQUEST
    assert cluster.disk.groups == groups
    assert cluster.metadata_ref.is_alive()


# -- the lease ---------------------------------------------------------------------------------------------


def test_the_lease_is_granted_to_one_with_a_session(cluster):
    assert campaign(cluster).error == ErrorCode.STALE_BROKER_EPOCH
    open_session(cluster)

    granted = campaign(cluster)

    assert (granted.error, granted.holder, granted.controller_epoch) == (0, "broker-1", 1)
    assert cluster.image.controller_id == 1


def test_a_held_lease_is_refused_naming_its_holder(cluster):
    with_controller(cluster)
    open_session(cluster, "broker-2")

    refused = campaign(cluster, "broker-2")

    assert (refused.error, refused.holder) == (ErrorCode.STALE_CONTROLLER_EPOCH, "broker-1")


def test_a_lease_that_is_not_renewed_becomes_vacant_and_commits_under_it_are_refused(cluster):  # B26, F9
    with_controller(cluster)
    heartbeats(cluster, 1_700)

    assert cluster.image.lease.holder == ""
    assert commit(cluster, put()).error == ErrorCode.STALE_CONTROLLER_EPOCH
    assert cluster.ask_store(m.RenewRequest(controller_epoch=1, name="broker-1")).error != 0


def test_a_renewed_lease_stays(cluster):
    with_controller(cluster)
    for _ in range(20):
        cluster.advance(400)
        assert cluster.ask_store(m.HeartbeatRequest(name="broker-1", incarnation="a")).error == 0
        assert cluster.ask_store(m.RenewRequest(controller_epoch=1, name="broker-1")).error == 0

    assert commit(cluster, put()).error == 0


def test_epochs_grow_across_restarts(cluster):  # R8
    with_controller(cluster)
    cluster.ask_store(m.ResignRequest(controller_epoch=1, name="broker-1"))
    cluster.kill_metadata()
    cluster.start_metadata()
    cluster.settle()

    assert campaign(cluster).controller_epoch == 2


def test_a_new_life_of_the_holders_broker_vacates_the_lease(cluster):
    with_controller(cluster)

    open_session(cluster, incarnation="b")

    assert cluster.image.lease.holder == ""
    assert campaign(cluster, incarnation="b").controller_epoch == 2


# -- documents ---------------------------------------------------------------------------------------------


def test_a_commit_is_compared_with_epoch_and_versions(cluster):
    with_controller(cluster)
    done = commit(cluster, put())
    assert (done.error, done.version) == (0, cluster.disk.version)

    assert commit(cluster, put(if_version=done.version), epoch=0).error == ErrorCode.STALE_CONTROLLER_EPOCH
    conflict = commit(cluster, put(if_version=0))
    assert (conflict.error, conflict.detail) == (
        ErrorCode.STORE_CONFLICT,
        f"topic/a is at version {done.version}, not 0",
    )
    assert commit(cluster, put(if_version=done.version)).error == 0


def test_producer_ids_are_never_given_twice(cluster):
    first = cluster.ask_store(m.AllocateProducerIdsRequest(count=10))
    cluster.kill_metadata()
    cluster.start_metadata()
    second = cluster.ask_store(m.AllocateProducerIdsRequest(count=10))

    assert (first.first, first.count) == (0, 10)
    assert second.first == 10


# -- watches -----------------------------------------------------------------------------------------------


def watch(cluster, after_version, store_incarnation=None, **fields):
    known = cluster.ask_store(m.StoreLoadRequest()).store_incarnation
    return m.StoreWatchRequest(store_incarnation=store_incarnation or known, after_version=after_version, **fields)


def test_a_watch_is_answered_the_moment_something_changes(cluster):
    with_controller(cluster)
    version = cluster.disk.version
    answers = asked(cluster, watch(cluster, version))
    assert answers == []

    commit(cluster, put())
    cluster.settle(1)

    (delta,) = answers
    assert [(document.key, document.version) for document in delta.documents] == [("topic/a", version + 1)]
    assert delta.version == version + 1


def test_a_watch_behind_the_store_is_answered_at_once(cluster):
    open_session(cluster)

    (delta,) = asked(cluster, watch(cluster, 1))

    assert {document.key for document in delta.documents} == {"session/broker-1", "broker/1"}


@pytest.mark.parametrize(("after", "incarnation"), [(0, "another life"), (10_000, None)])
def test_a_gap_is_answered_by_everything(cluster, after, incarnation):  # B29
    open_session(cluster)

    (snapshot,) = asked(cluster, watch(cluster, after, incarnation))

    assert isinstance(snapshot, m.StoreSnapshotReply)
    assert {document.key for document in snapshot.documents} == {"cluster", "session/broker-1", "broker/1"}
    assert snapshot.version == cluster.disk.version


def test_a_watch_of_nothing_ends_empty(cluster):
    answers = asked(cluster, watch(cluster, cluster.disk.version, max_wait_ms=2_000))

    cluster.advance(2_100)

    assert [(answer.version, answer.documents) for answer in answers] == [(cluster.disk.version, [])]


def test_it_works_on_the_real_file_in_virtual_time(tmp_path):
    cluster = MetadataCluster(settings=BrokerSettings())
    path = str(tmp_path / "metadata.db")
    for life in range(3):
        ref = cluster.start_metadata(open_store=lambda: SqliteStore(path))
        cluster.settle()
        assert open_session(cluster, incarnation=f"life {life}").error == 0
        assert campaign(cluster, incarnation=f"life {life}").controller_epoch == life + 1
        key, version = "topic/a", cluster.ask_store(m.StoreLoadRequest()).documents
        seen = next((one.version for one in version if one.key == key), 0)
        assert (seen > 0) == (life > 0)
        assert commit(cluster, put(if_version=seen), epoch=life + 1).error == 0
        ref.kill(RuntimeError("killed"))
        cluster.settle()


# -- what a controller may write ---------------------------------------------------------------------------


def partition_put(key="partition/a/0", if_version=0, **fields):
    return m.Put(key=key, value={"replicas": [1], "isr": [1], "leader": 1, **fields}, if_version=if_version)


@pytest.mark.parametrize(
    ("puts", "says"),
    [
        ([put("topic/a", {"name": "a"})], "Object missing required field `partitions`"),
        ([put("topic/a", {"name": "a/b", "partitions": 1})], "'a/b' is not a topic name"),
        ([put("topic/a", {"name": "a", "partitions": 0})], "counts from 1 on"),
        ([put("topic/a", {"name": "a", "partitions": 1, "configs": {"segment_bytes": "x"}})], "segment_bytes"),
        ([put("topic/../../x")], "names no topic id"),
        ([put("topic/a/0")], "names no document"),
        ([put(), partition_put("partition/a")], "names no document"),
        ([put(), partition_put("partition/a/-1")], "names no document"),
        ([put(), partition_put("partition/a/00")], "names no document"),
        ([put(), partition_put(replicas=[])], "its replicas are none, or the same"),
        ([put(), partition_put(replicas=[1, 1])], "its replicas are none, or the same"),
        ([put(), partition_put(isr=[2])], "its leader and its in-sync replicas are not among its replicas"),
        ([put(), partition_put(leader=2)], "its leader and its in-sync replicas are not among its replicas"),
        ([put(), partition_put(leader_epoch=1 << 31)], "an id or epoch is out of range"),
        ([put("deleted/a", {})], "Object missing required field `name`"),
        ([partition_put()], "topic/a: would not be there"),
        ([put(), partition_put("partition/b/0")], "topic/b: would not be there"),
    ],
)
def test_a_commit_that_every_broker_would_fail_of_is_refused(cluster, puts, says):
    with_controller(cluster)

    refused = commit(cluster, *puts)

    assert refused.error == ErrorCode.INVALID_REQUEST
    assert says in refused.detail
    assert not [key for key in cluster.disk.rows if key.startswith(("topic/", "partition/", "deleted/"))]


def test_a_topic_does_not_go_before_its_partitions(cluster):
    with_controller(cluster)
    version = commit(cluster, put(), put("topic/ab"), partition_put(), partition_put("partition/ab/0")).version
    gone = [m.Put(key=key, value=None, if_version=version) for key in ("topic/a", "partition/a/0")]

    assert commit(cluster, gone[0]).detail == "partition/a/0: would be left alone"
    assert commit(cluster, gone[0], partition_put(if_version=version)).detail == "topic/a: would not be there"
    assert commit(cluster, *gone).error == 0
    assert [key for key in cluster.disk.rows if key.startswith("partition/")] == ["partition/ab/0"]


def test_an_overtaken_commit_is_a_conflict_and_no_fault(cluster):
    with_controller(cluster)
    version = commit(cluster, put(), partition_put()).version
    commit(cluster, *(m.Put(key=key, value=None, if_version=version) for key in ("topic/a", "partition/a/0")))

    assert commit(cluster, partition_put(if_version=version)).error == ErrorCode.STORE_CONFLICT


def test_a_setting_of_a_newer_version_is_taken(cluster):
    with_controller(cluster)

    value = {"name": "a", "partitions": 1, "configs": {"flush": "os", "not_yet_known": [1]}, "new_field": 1}

    assert commit(cluster, put(value=value)).error == 0


@pytest.mark.parametrize("fields", [{"broker_id": 1 << 31}, {"broker_id": -2}, {"kind": "visitor"}])
def test_a_session_of_an_impossible_broker_is_refused(cluster, fields):
    refused = open_session(cluster, **fields)

    assert refused.error == ErrorCode.INVALID_REQUEST
    assert cluster.ask_store(m.HeartbeatRequest(name="broker-1", incarnation="a")).error


def test_a_broker_id_is_of_one_name_while_that_is_alive(cluster):
    open_session(cluster)

    assert open_session(cluster, "other-9", "x", broker_id=1).error == ErrorCode.DUPLICATE_BROKER_REGISTRATION
    cluster.ask_store(m.EndSessionRequest(name="broker-1", incarnation="a"))
    assert open_session(cluster, "other-9", "x", broker_id=1).error == 0
