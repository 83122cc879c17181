"""The admin client's shell on the I/O thread: finds who can answer, asks, asks again while that may help.

What is told never goes back: any broker may be asked, and one that has not heard yet of what this client was told, or
has changed, is asked again, or another one. If all that can be reached stay behind, what they know is told after
``BEHIND_MS`` nevertheless: in trouble an old answer is better than none.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import (
    BrokerResponseError,
    CallboardError,
    CallboardTimeoutError,
    ErrorCode,
    NotControllerError,
    is_metadata_stale,
)
from ..model import OffsetAndTimestamp, TopicPartition
from ..transport.addresses import choose_endpoint
from ..transport.group_messages import GroupListing
from ..transport.messages import Reply, Request
from ..transport.seam import Connection
from .cluster import Cluster, error_of
from .config import AdminConfig
from .group_questions import CoordinatorsQuestion, GroupAnswer, GroupQuestion, ListingQuestion
from .io import Done, IoThread
from .offsets import AnyOffsetsQuestion, DeleteRecordsQuestion, Found, OffsetsQuestion

RETRY_MS = 50  # between two attempts; administration is rare
ATTEMPT_MS = 10_000  # of one attempt at one broker; then another one is asked
BEHIND_MS = 2_000  # for so long nobody is believed who knows less than was known before
BEHIND_RETRY_MS = 5  # news are on their way to all brokers at once


class Replies:
    """What several were asked: an answer or an error each."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.errors: dict[str, CallboardError] = {}


class AdminIo:
    """All methods on the I/O thread."""

    def __init__(self, io: IoThread, config: AdminConfig, client_id: str) -> None:
        self._loop, self._clock = io.loop, io.clock
        self.cluster = Cluster(io.loop, io.clock, io.transport, config, client_id, self)
        io.tell = self.cluster.hook.tell
        self.config = config
        self._coordinators: dict[str, int] = {}  # group -> broker, as it was last told
        self._told = ("", 0)  # cluster id, and the newest version of its metadata that this client was told

    def start(self) -> None:
        self.cluster.start()

    def shut_down(self, done: Done[None]) -> None:
        self.cluster.close()
        done(None, None)

    # -- the cluster's listener --------------------------------------------------------------------

    def on_metadata(self) -> None:
        """Nothing waits for it but questions, which look by themselves."""

    def on_connected(self, broker_id: int) -> None: ...

    def on_disconnected(self, broker_id: int) -> None: ...

    # -- asking ------------------------------------------------------------------------------------

    def ask_controller(self, request: Request, timeout_ms: int, done: Done[tuple[Reply, bool]]) -> None:
        """Ask the controller, wherever it is, until it answers. ``done`` gets the reply, and whether an earlier attempt
        may have taken effect already.
        """

        def on_answer(answer: tuple[Reply, bool] | None, error: BaseException | None) -> None:
            if answer is not None:
                self._remember(answer[0])
            done(answer, error)

        _ControllerQuestion(self, request, self._clock.monotonic_ms() + timeout_ms, on_answer).ask()

    def ask_any(self, request: Request, timeout_ms: int, done: Done[Reply]) -> None:
        """Ask any broker; when it is lost on the way, or behind, another. Only for questions that change nothing."""
        begun_ms = self._clock.monotonic_ms()
        until_ms = begun_ms + timeout_ms
        patient_until_ms = begun_ms + min(BEHIND_MS, timeout_ms)

        def on_reply(reply: Reply | CallboardError, _: list[bytes]) -> None:
            error = error_of(reply)
            if isinstance(reply, Reply) and error is None:
                if self._is_behind(reply) and self._clock.monotonic_ms() + BEHIND_RETRY_MS < patient_until_ms:
                    self._loop.call_later(BEHIND_RETRY_MS / 1000, ask)
                    return
                self._remember(reply)
                done(reply, None)
            elif error is not None and (
                not error.retriable or not self.cluster.has_contact or self._clock.monotonic_ms() + RETRY_MS >= until_ms
            ):
                done(None, error)
            else:
                self._loop.call_later(RETRY_MS / 1000, ask)

        def ask() -> None:
            left_ms = max(1, until_ms - self._clock.monotonic_ms())
            self.cluster.ask_any(request, on_reply, min(left_ms, ATTEMPT_MS))

        ask()

    def ask_brokers(self, request: Request, timeout_ms: int, done: Done[Replies]) -> None:
        """Ask every broker that the metadata knows; ``done`` gets what each said, by ``broker-<id>``."""
        found = {f"broker-{id}": self.cluster.connection(id) for id in self.cluster.metadata.brokers}
        self._ask_all({name: connection for name, connection in found.items() if connection}, request, timeout_ms, done)

    def delete_records(
        self, before: Mapping[TopicPartition, int], timeout_ms: int, done: Done[dict[TopicPartition, int]]
    ) -> None:
        """Ask the leaders of partitions to delete; ``done`` gets their log start offsets."""
        DeleteRecordsQuestion(self._loop, self._clock, self.cluster, before, timeout_ms, done).ask()

    def find_offsets(self, times: Mapping[TopicPartition, int], timeout_ms: int, done: Done[Found]) -> None:
        """Look up offsets by timestamp, as ``OffsetsQuestion`` does."""
        OffsetsQuestion(self._loop, self._clock, self.cluster, times, timeout_ms, done).ask()

    def find_offsets_if_possible(
        self,
        times: Mapping[TopicPartition, int],
        timeout_ms: int,
        done: Done[dict[TopicPartition, OffsetAndTimestamp | CallboardError | None]],
    ) -> None:
        """… and have an error for those that cannot be looked up in time."""
        AnyOffsetsQuestion(self._loop, self._clock, self.cluster, times, timeout_ms, done).ask()

    def ask_groups(
        self, question: GroupQuestion, group_ids: list[str], timeout_ms: int, done: Done[dict[str, GroupAnswer]]
    ) -> None:
        """Ask the coordinators of groups; ``done`` gets what is said of each."""
        CoordinatorsQuestion(
            self._loop, self._clock, self.cluster, self._coordinators, question, group_ids, timeout_ms, done
        ).ask()

    def list_groups(self, broker_ids: list[int] | None, timeout_ms: int, done: Done[list[GroupListing]]) -> None:
        """Ask brokers (None: all) which groups they coordinate."""
        ListingQuestion(self._loop, self._clock, self.cluster, broker_ids, timeout_ms, done).ask()

    def ask_endpoints(
        self, endpoints: Mapping[str, tuple[list[str], str]], request: Request, timeout_ms: int, done: Done[Replies]
    ) -> None:
        """Ask others than brokers: name → (endpoints, machine). Connections are made for this question only."""
        connections = {
            name: self.cluster.connect_to(choose_endpoint(where, machine), lambda _: None)
            for name, (where, machine) in endpoints.items()
        }

        def finish(replies: Replies | None, error: BaseException | None) -> None:
            for connection in connections.values():
                connection.close()
            done(replies, error)

        self._ask_all(connections, request, timeout_ms, finish)

    def _is_behind(self, reply: Reply) -> bool:
        """Say whether who answers knows less than this client was told before."""
        (told_id, told), (cluster_id, version) = self._told, self._version_of(reply)
        return cluster_id == told_id and 0 < version < told

    def _remember(self, reply: Reply) -> None:
        cluster_id, version = self._version_of(reply)
        if version and not self._is_behind(reply):
            self._told = (cluster_id, version)

    def _version_of(self, reply: Reply) -> tuple[str, int]:
        """Return the cluster that a reply is of, and its version of the metadata; 0: it does not say."""
        return getattr(reply, "cluster_id", "") or self.cluster.metadata.cluster_id, getattr(reply, "version", 0)

    def _ask_all(
        self, connections: Mapping[str, Connection], request: Request, timeout_ms: int, done: Done[Replies]
    ) -> None:
        replies = Replies()
        waiting = set(connections)
        if not waiting:
            done(replies, None)
            return

        def on_reply(name: str, reply: Reply | CallboardError) -> None:
            error = error_of(reply)
            if error is not None:
                replies.errors[name] = error
            elif isinstance(reply, Reply):
                replies.replies[name] = reply
            waiting.discard(name)
            if not waiting:
                done(replies, None)

        def ask(name: str, connection: Connection) -> None:
            connection.request(request, lambda reply, _: on_reply(name, reply), timeout_ms=timeout_ms)

        for name, connection in connections.items():
            ask(name, connection)


class _ControllerQuestion:
    """One request to the controller, through elections and lost connections, until its deadline."""

    def __init__(self, admin: AdminIo, request: Request, until_ms: int, done: Done[tuple[Reply, bool]]) -> None:
        self._admin, self._request, self._until_ms, self._done = admin, request, until_ms, done
        self._begin_ms = admin._clock.monotonic_ms()
        self._may_have_happened = False
        self._last_error: CallboardError | None = None

    def ask(self) -> None:
        admin, cluster = self._admin, self._admin.cluster
        now_ms = admin._clock.monotonic_ms()
        left_ms = self._until_ms - now_ms
        if not cluster.has_contact and now_ms - self._begin_ms >= cluster.bootstrap_timeout_ms:
            left_ms = 0
        if left_ms <= 0:
            self._done(None, self._timeout_error())
            return
        connection = cluster.connection(cluster.metadata.controller_id)
        if connection is None:
            cluster.refresh()
            self._later()
            return
        connection.request(self._request, self._on_reply, timeout_ms=min(left_ms, ATTEMPT_MS))

    def _on_reply(self, reply: Reply | CallboardError, _: list[bytes]) -> None:
        error = error_of(reply)
        if error is None and isinstance(reply, Reply):
            refused = next(
                (entry for entry in getattr(reply, "topics", ()) if entry.error == ErrorCode.NOT_CONTROLLER), None
            )
            if refused is None:
                self._done((reply, self._may_have_happened), None)
                return
            error = NotControllerError(refused.detail)
        if error is None or not error.retriable:
            self._done(None, error)
            return
        self._last_error = error
        self._may_have_happened = self._may_have_happened or error.outcome_unknown
        if not isinstance(error, BrokerResponseError) or is_metadata_stale(error.errno):
            self._admin.cluster.refresh()
        self._later()

    def _later(self) -> None:
        self._admin._loop.call_later(RETRY_MS / 1000, self.ask)

    def _timeout_error(self) -> CallboardError:
        cluster = self._admin.cluster
        if not cluster.has_contact:
            return cluster.unreachable_error()
        error: CallboardError = CallboardTimeoutError("no controller was found in time; is the metadata process up?")
        if self._last_error is not None:
            error = CallboardTimeoutError(f"the controller did not do it in time; last error: {self._last_error}")
            error.__cause__ = self._last_error
        return error
