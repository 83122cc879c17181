"""The admin client as applications see it: topics, and the cluster itself."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar, cast

import msgspec

from ..config import TopicConfig, defaults_of
from ..errors import CallboardError, ErrorCode, UnknownAddressError, error_for_code
from ..model import TopicPartition
from ..transport import messages as m
from . import admin_requests
from .admin_groups import GroupAdministration
from .admin_io import AdminIo, Replies
from .admin_requests import Changes, Elections, Partitions, Topics
from .asking import topic_error, wait_until
from .cluster import timed_out
from .config import AdminConfig, from_keywords
from .experiments import Experiments, Happened, events
from .io import Done, IoThread, MakeTransport

_numbers = itertools.count(1)

R = TypeVar("R", bound=m.Reply)


class AdminClient(GroupAdministration):
    """Administers a cluster. Thread-safe. All calls wait for their answer.

        with AdminClient(bootstrap_servers="localhost:9192") as admin:
            admin.create_topics({"flights": {"num_partitions": 6}})

    ``timeout_ms`` of a call: None means ``request_timeout_ms``. Settings are those of
    ``client.config.AdminConfig``, by name.

    Every call may raise ``ConnectionFailedError`` (nobody could be reached within ``bootstrap_timeout_ms``; it
    tells the endpoints, stages, and what to try), ``CallboardTimeoutError``, ``IllegalStateError`` (closed) and
    ``ForkedClientError``.
    """

    def __init__(self, **settings: Any) -> None:
        make_transport: MakeTransport | None = settings.pop("make_transport", None)  # for tests
        self.config = config = from_keywords(AdminConfig, settings, "admin")
        self.client_id = config.client_id or f"callboard-admin-{os.getpid()}-{next(_numbers)}"
        self._committer, self._commit_numbers = f"{self.client_id[:100]}-{secrets.token_hex(12)}", itertools.count()
        self._io = IoThread(f"admin client {self.client_id}", self, make_transport)
        self._shell = AdminIo(self._io, config, self.client_id)
        self._lags_told = {}
        self._io.post(self._shell.start)

    # -- topics ------------------------------------------------------------------------------------

    def create_topics(
        self,
        topics: Topics,
        timeout_ms: int | None = None,
        validate_only: bool = False,
        raise_errors: bool = True,
        wait_for_metadata: bool = True,
    ) -> dict[str, m.TopicResult]:
        """Create topics; return the result of each, by name.

        Args:
            topics: names, ``NewTopic``s, or ``{name: {"num_partitions": …, "replication_factor": …, "configs": {…}}}``.
            validate_only: change nothing, say what would happen.
            raise_errors: raise the first refusal; else look at ``.error`` of the results.
            wait_for_metadata: return only when every broker knows the topics and their leaders.

        Raises:
            TopicAlreadyExistsError, InvalidTopicError, InvalidPartitionsError, InvalidReplicationFactorError,
            InvalidConfigurationError, …: a refusal. Other topics of the same call may have been created.
        """
        request = m.CreateTopicsRequest(topics=admin_requests.topics_to_create(topics), validate_only=validate_only)
        version, results = self._change(
            request, timeout_ms, raise_errors, happened_before=ErrorCode.TOPIC_ALREADY_EXISTS
        )
        created = [name for name, result in results.items() if not result.error]
        if wait_for_metadata and created and not validate_only:
            self._wait_for_version(version, created, self._timeout(timeout_ms))
        return results

    def delete_topics(
        self, topics: Iterable[str], timeout_ms: int | None = None, raise_errors: bool = True
    ) -> dict[str, m.TopicResult]:
        """Delete topics with all that is in them, for ever; return the result of each, by name.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
        """
        request = m.DeleteTopicsRequest(names=admin_requests.names_of(topics, "delete_topics"))
        return self._change(request, timeout_ms, raise_errors, happened_before=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)[1]

    def create_partitions(
        self, topics: Partitions, timeout_ms: int | None = None, validate_only: bool = False, raise_errors: bool = True
    ) -> dict[str, m.TopicResult]:
        """Give topics more partitions: ``{name: new_total}`` or ``{name: {"count": …, "assignments": …}}``.

        Keys go to other partitions from then on; what is written stays where it is.

        Raises:
            UnknownTopicOrPartitionError, InvalidPartitionsError: no such topic; not more than there are.
        """
        request = m.CreatePartitionsRequest(
            topics=admin_requests.partitions_to_create(topics), validate_only=validate_only
        )
        return self._change(request, timeout_ms, raise_errors)[1]

    def alter_configs(
        self, configs: Changes, timeout_ms: int | None = None, validate_only: bool = False, raise_errors: bool = True
    ) -> dict[str, m.TopicResult]:
        """Change settings of topics: ``{name: {setting: value}}``; a value of None takes it back to the default.

        Raises:
            UnknownTopicOrPartitionError, InvalidConfigurationError: no such topic; no such setting, or out of bounds.
        """
        request = m.AlterTopicsRequest(topics=admin_requests.changes_to_make(configs), validate_only=validate_only)
        return self._change(request, timeout_ms, raise_errors)[1]

    def list_topics(self, include_internal: bool = False, timeout_ms: int | None = None) -> list[str]:
        """Return the names of all topics, sorted."""
        return sorted(topic.name for topic in self._topics(None, include_internal, timeout_ms))

    def describe_topics(
        self, topics: Iterable[str] | None = None, timeout_ms: int | None = None
    ) -> list[m.TopicMetadata]:
        """Return the partitions of topics (None: of all), by name: leader, leader epoch, replicas, ``isr``, ``elr``.
        And the settings that were changed.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
        """
        names = None if topics is None else admin_requests.names_of(topics, "describe_topics")
        found = self._topics(names, True, timeout_ms)
        for topic in found:
            if topic.error:
                raise error_for_code(topic.error, topic.detail or f"there is no topic {topic.name!r}")
        return sorted(found, key=lambda topic: topic.name)

    def describe_configs(
        self, topics: Iterable[str] | None = None, timeout_ms: int | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return every setting of topics (None: of all) as it holds, defaults included."""
        return {
            topic.name: {**defaults_of(TopicConfig), **topic.configs}
            for topic in self.describe_topics(topics, timeout_ms)
        }

    def wait_for_topics(self, names: Iterable[str], timeout_ms: int = 10_000) -> None:
        """Return when every partition of these topics has a leader.

        Raises:
            UnknownTopicOrPartitionError: there is still no such topic.
            CallboardTimeoutError: not within ``timeout_ms``.
        """
        wanted = admin_requests.names_of(names, "wait_for_topics")
        cluster = self._shell.cluster
        begin_ms = self._io.clock.monotonic_ms()

        def look() -> bool | None:
            cluster.add_interest(wanted)
            if cluster.metadata.updated_ms <= begin_ms:
                return None  # only an answer that is newer than the question counts
            for name in wanted:
                error = topic_error(cluster, name, self._io.clock.monotonic_ms())
                if error is not None:
                    raise error
            return True if all(cluster.metadata.has_leaders(name) for name in wanted) else None

        wait_until(self._io, cluster, look, timeout_ms, f"leaders of {', '.join(wanted)}")

    def delete_records(
        self, records_to_delete: Mapping[TopicPartition, int], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """Delete what lies below an offset in each partition; -1: all that is committed. Return where they begin now.

        Returns when that survives power loss. Readers behind it get ``OffsetOutOfRangeError``, or follow their
        ``auto_offset_reset``. The space comes back a whole segment at a time.

        Raises:
            OffsetOutOfRangeError: an offset is above the high watermark. Other partitions may have been cut.
            UnknownTopicOrPartitionError: there is no such partition.
        """
        before = admin_requests.deletions_to_make(records_to_delete)
        bound_ms = self._timeout(timeout_ms)

        def start(done: Done[dict[TopicPartition, int]]) -> None:
            self._shell.delete_records(before, bound_ms, done)

        return self._io.ask(start, bound_ms / 1000 + 1, "the leaders")

    def elect_leaders(
        self,
        election_type: str | int,
        partitions: Elections | None = None,
        timeout_ms: int | None = None,
        raise_errors: bool = True,
    ) -> dict[TopicPartition, m.ElectLeadersEntryReply]:
        """Have leaders elected; return each partition's leader and leader epoch as they are then.

        Args:
            election_type: "preferred" gives leadership back to the first of the replicas, if it is in sync. "unclean"
                makes any live replica the leader of a partition that nobody may lead otherwise: what only the others
                had is lost, acknowledged or not.
            partitions: None: wherever it applies; only those where it was needed are returned then.
            raise_errors: raise the first refusal; else look at ``.error`` of the results. That an election was not
                needed (ELECTION_NOT_NEEDED) is never raised.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            EligibleLeadersNotAvailableError: nobody could be elected. Other partitions may have new leaders.
        """
        entries = admin_requests.elections_to_hold(partitions)
        request = m.ElectLeadersRequest(election=admin_requests.election_named(election_type), partitions=entries)
        reply, _ = self._ask_controller(request, timeout_ms)
        results: dict[TopicPartition, m.ElectLeadersEntryReply] = {}
        for entry in cast("m.ElectLeadersReply", reply).entries:
            results.setdefault(TopicPartition(entry.topic, entry.partition), entry)
            if raise_errors and entry.error not in (0, ErrorCode.ELECTION_NOT_NEEDED):
                raise error_for_code(entry.error, f"{entry.topic}-{entry.partition}: {entry.detail}")
        return results

    # -- the cluster -------------------------------------------------------------------------------

    def describe_cluster(self, timeout_ms: int | None = None) -> m.DescribeClusterReply:
        """Return brokers, hosts, controller; and of the broker that answers: its clients and counters."""
        return self._ask_any(m.DescribeClusterRequest(), m.DescribeClusterReply, timeout_ms)

    def describe_tree(self, timeout_ms: int | None = None) -> m.ActorDescription:
        """Return the supervision tree of the whole cluster, every actor of every process.

        With several hosts their trees are below a root that is nobody's, with the address ``""``.
        """
        hosts = self._hosts(timeout_ms)
        if hosts:
            replies = self._ask_hosts(hosts, m.DescribeTreeRequest(), timeout_ms)
        else:
            replies = self._ask_brokers(m.DescribeTreeRequest(), timeout_ms)
        trees = [
            reply.tree for reply in replies.replies.values() if isinstance(reply, m.DescribeTreeReply) and reply.tree
        ]
        if not trees:
            raise next(iter(replies.errors.values()), None) or timed_out(
                "the supervision tree", self._timeout(timeout_ms)
            )
        return trees[0] if len(trees) == 1 else m.ActorDescription(address="", kind="cluster", children=trees)

    @property
    def experiments(self) -> Experiments:
        """Pauses, hangs, slow actors, cut links: what a cluster should survive, for a while."""
        return Experiments(self)

    def events(self, after: Mapping[str, int] | None = None, max_wait_ms: int = 0) -> Happened:
        """Return what happened in the cluster: failures, elections, changes of in-sync replicas, experiments.

        Args:
            after: ``Happened.after`` of an earlier call, to get what came since; None: all that is remembered.
            max_wait_ms: how long to wait for something when there is nothing.
        """
        return events(self, after, max_wait_ms)

    def kill(self, address: str, how: str = "", timeout_ms: int | None = None, *, for_ms: int = 0) -> m.KillReply:
        """Fail one actor or process on purpose, to watch it come back.

        Args:
            address: as ``describe_tree`` tells it.
            how: of an actor "raise" (the default) or "exit"; of a process "kill" (the default) or "term".
            for_ms: a process is not started again before so long (where experiments are allowed).

        Raises:
            UnknownAddressError: nothing has this address.
        """
        if not isinstance(address, str):
            raise TypeError(f"address: expected str, got {type(address).__name__}")
        request = m.KillRequest(address=address, how=how, for_ms=for_ms)
        hosts = self._hosts(timeout_ms)
        replies = self._ask_hosts(hosts, request, timeout_ms) if hosts else self._ask_brokers(request, timeout_ms)
        for reply in replies.replies.values():
            if isinstance(reply, m.KillReply):
                return reply
        errors = list(replies.errors.values())
        known = [error for error in errors if not isinstance(error, UnknownAddressError)]
        raise next(iter(known or errors), None) or UnknownAddressError(address)

    def describe_processes(self, timeout_ms: int | None = None) -> list[m.ProcessDescription]:
        """Return the processes of every host: pid, state, restarts, CPU, memory, disk."""
        replies = self._ask_hosts(self._hosts(timeout_ms), m.DescribeProcessesRequest(), timeout_ms)
        if not replies.replies and replies.errors:
            raise next(iter(replies.errors.values()))
        return [
            process
            for reply in replies.replies.values()
            if isinstance(reply, m.DescribeProcessesReply)
            for process in reply.processes
        ]

    def describe_replicas(
        self, topics: Iterable[str] | None = None, timeout_ms: int | None = None
    ) -> dict[int, list[m.ReplicaDescription]]:
        """Return the replicas that each broker hosts (None: of all topics), by broker id. Brokers that are away are
        left out."""
        ids = [] if topics is None else [topic.topic_id for topic in self.describe_topics(topics, timeout_ms)]
        replies = self._ask_brokers(m.DescribeReplicasRequest(topic_ids=ids), timeout_ms)
        return {
            int(name.removeprefix("broker-")): reply.replicas
            for name, reply in sorted(replies.replies.items())
            if isinstance(reply, m.DescribeReplicasReply)
        }

    def describe_log_dirs(self, timeout_ms: int | None = None) -> dict[int, list[m.LogDirectoryDescription]]:
        """Return each broker's directories for logs, by broker id: online, full or failed, replicas, free bytes.

        Brokers that are away are left out. Which replica lies where: ``describe_replicas``.
        """
        replies = self._ask_brokers(m.DescribeReplicasRequest(), timeout_ms)
        return {
            int(name.removeprefix("broker-")): reply.directories
            for name, reply in sorted(replies.replies.items())
            if isinstance(reply, m.DescribeReplicasReply)
        }

    def describe_clients(self, timeout_ms: int | None = None) -> list[m.ClientDescription]:
        """Return who is connected to which broker, by client id and broker: requests and bytes since the connection.

        A client that talks to three brokers has three entries. Brokers that are away are left out.
        """
        replies = self._ask_brokers(m.DescribeClusterRequest(), timeout_ms).replies.values()
        found = [client for reply in replies if isinstance(reply, m.DescribeClusterReply) for client in reply.clients]
        return sorted(found, key=lambda client: (client.client_id, client.broker_id))

    # -- life --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections. Harmless when repeated."""
        if not self._io.is_alive or self._io.is_own_thread:
            self._io.stop()
            return
        try:
            self._io.ask(self._shell.shut_down, self.config.close_timeout_ms / 1000, "close")
        except CallboardError:  # it was closed meanwhile, by another thread
            pass
        finally:
            self._io.stop()

    def on_fork(self) -> None:
        """We are in a forked child: refuse from here on."""
        self._io.is_forked = True

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside ------------------------------------------------------------------------------------

    def _timeout(self, timeout_ms: int | None) -> int:
        return self.config.request_timeout_ms if timeout_ms is None else timeout_ms

    def _change(
        self, request: m.Request, timeout_ms: int | None, raise_errors: bool, happened_before: ErrorCode | None = None
    ) -> tuple[int, dict[str, m.TopicResult]]:
        """Ask the controller for a change of topics. ``happened_before``: this refusal means success when an earlier
        attempt of the same call was lost on its way back.
        """
        reply, may_have_happened = self._ask_controller(request, timeout_ms)
        answer = cast("m.TopicsReply", reply)
        results: dict[str, m.TopicResult] = {}
        for result in answer.topics:
            if may_have_happened and result.error == happened_before:
                result = msgspec.structs.replace(result, error=0, detail="")
            results[result.name] = result
            if result.error and raise_errors:
                raise error_for_code(result.error, result.detail or f"topic {result.name!r}")
        return answer.version, results

    def _ask_controller(self, request: m.Request, timeout_ms: int | None) -> tuple[m.Reply, bool]:
        """Return the controller's reply, and whether an earlier attempt may have taken effect already."""
        bound_ms = self._timeout(timeout_ms)

        def start(done: Done[tuple[m.Reply, bool]]) -> None:
            self._shell.ask_controller(request, bound_ms, done)

        return self._io.ask(start, bound_ms / 1000 + 1, "the controller")

    def _topics(self, names: list[str] | None, internal: bool, timeout_ms: int | None) -> list[m.TopicMetadata]:
        request = m.MetadataRequest(topics=names, include_internal=internal)
        return self._ask_any(request, m.MetadataReply, timeout_ms).topics

    def _wait_for_version(self, version: int, names: list[str], timeout_ms: int) -> None:
        """Wait until every broker that can be reached knows ``version``, and the topics have leaders."""
        self.wait_for_topics(names, timeout_ms)
        until_ms = self._io.clock.monotonic_ms() + timeout_ms
        while True:
            replies = self._ask_brokers(m.MetadataRequest(topics=names), timeout_ms)
            found = [reply for reply in replies.replies.values() if isinstance(reply, m.MetadataReply)]
            if all(reply.version >= version and _all_led(reply) for reply in found):
                return
            if self._io.clock.monotonic_ms() >= until_ms:
                raise timed_out(f"metadata of {', '.join(names)} at every broker", timeout_ms)

    def _hosts(self, timeout_ms: int | None) -> list[m.HostMetadata]:
        return self.describe_cluster(timeout_ms).hosts

    def _ask_hosts(self, hosts: list[m.HostMetadata], request: m.Request, timeout_ms: int | None) -> Replies:
        where = {host.name: (host.endpoints, host.machine) for host in hosts if host.endpoints}
        bound_ms = self._timeout(timeout_ms)

        def start(done: Done[Replies]) -> None:
            self._shell.ask_endpoints(where, request, bound_ms, done)

        return self._io.ask(start, bound_ms / 1000 + 1, "the hosts")

    def _ask_brokers(self, request: m.Request, timeout_ms: int | None) -> Replies:
        bound_ms = self._timeout(timeout_ms)
        cluster = self._shell.cluster
        begun_ms = self._io.clock.monotonic_ms()

        def is_known() -> bool | None:  # from now on: who was away when this client last asked may be back
            metadata = cluster.metadata
            return True if metadata.brokers and metadata.updated_ms >= begun_ms else None

        wait_until(self._io, cluster, is_known, bound_ms, "the brokers")

        def start(done: Done[Replies]) -> None:
            self._shell.ask_brokers(request, bound_ms, done)

        return self._io.ask(start, bound_ms / 1000 + 1, "the brokers")

    def _ask_any(self, request: m.Request, kind: type[R], timeout_ms: int | None) -> R:
        bound_ms = self._timeout(timeout_ms)

        def start(done: Done[m.Reply]) -> None:
            self._shell.ask_any(request, bound_ms, done)

        return cast("R", self._io.ask(start, bound_ms / 1000 + 1, "the cluster"))


def _all_led(reply: m.MetadataReply) -> bool:
    return all(not t.error and t.partitions and all(p.leader >= 0 for p in t.partitions) for t in reply.topics)
