"""What a consumer does with its group: commits, and the changes of its assignment.

Where callbacks run: those of ``commit_async`` in the thread of the application, in its next ``poll``, ``commit`` or
``close``, in the order of the calls; the rebalance listener's likewise in ``poll``, ``unsubscribe`` and ``close``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, overload

from ..errors import CallboardError, CommitFailedError, IllegalArgumentError, IllegalStateError
from ..model import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from .applicant import Change
from .application import Application, CommitCallback, EndedCommit, Offsets, log
from .commits import Commit
from .committed import Found
from .consumer_core import ConsumerCore, as_partition
from .group import GroupSide
from .group_offsets import OFFSET_MAX, check_metadata
from .io import Done
from .membership import Phase

GIVE_BACK_MS_MAX = 5_000  # of a commit before partitions go


class Committing(ConsumerCore):
    """The part of a consumer that is about its group."""

    def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int] | None = None,
        timeout_ms: int | None = None,
    ) -> None:
        """Commit, and return when that survives whatever happens. Tried until it succeeds or cannot.

        Earlier ``commit_async`` calls come first, and their callbacks are called before this returns.

        Args:
            offsets: of each partition the next record to read, with a string of yours perhaps. None: the positions of
                all assigned partitions, which is behind whatever was handed out.
            timeout_ms: None: ``request_timeout_ms``.

        Raises:
            CommitFailedError: the member is out of its group; the message names who owns the partitions, and the
            generation.
            CallboardTimeoutError: not acknowledged in time; it may have taken effect.
            IllegalStateError: no ``group_id``, or a partition that is not assigned.
            OffsetMetadataTooLargeError, GroupAuthorizationFailedError, …
        """
        application = self._group_of("commit")
        try:
            self._commit(offsets, timeout_ms)
        finally:
            application.run_callbacks()

    def commit_async(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int] | None = None,
        callback: CommitCallback | None = None,
    ) -> None:
        """Commit without waiting, and without a second try. Commits take effect in the order of the calls.

        ``callback(offsets, error)`` (None: ``default_offset_commit_callback``; without that a failure is logged) is
        called in the next ``poll``, ``commit`` or ``close``. Raises ``IllegalStateError`` as ``commit``.
        """
        application = self._group_of("commit_async")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback: expected a callable, got {type(callback).__name__}")
        with self._lock:
            self._check_open()
            given, member_id, epoch = self._to_commit(application, offsets)
        call = callback or self.config.default_offset_commit_callback or self._on_commit_failed

        def done(_: None, error: BaseException | None) -> None:
            application.ended.append(EndedCommit(call, given, _known(error)))
            self._on_news()

        self._post_commit(application, given, member_id, epoch, done)

    @overload
    def committed(
        self, partition: TopicPartition, metadata: Literal[False] = False, timeout_ms: int | None = None
    ) -> int | None: ...

    @overload
    def committed(
        self, partition: TopicPartition, metadata: Literal[True], timeout_ms: int | None = None
    ) -> OffsetAndMetadata | None: ...

    def committed(
        self, partition: TopicPartition, metadata: bool = False, timeout_ms: int | None = None
    ) -> int | OffsetAndMetadata | None:
        """Return what the group has committed for a partition, assigned or not; None: nothing.

        Asks the coordinator. ``metadata``: return an ``OffsetAndMetadata``.

        Raises:
            CallboardTimeoutError: no answer within ``timeout_ms`` (None: ``request_timeout_ms``).
        """
        key = as_partition(partition)
        group = self._side(self._group_of("committed"))
        bound_ms = self._bound_ms(timeout_ms)

        def start(done: Done[Found]) -> None:
            group.committed([key], bound_ms, done)

        found = self._io.ask(start, bound_ms / 1000 + 1, "committed").get(key)
        return found if metadata or found is None else found.offset

    def group_metadata(self) -> ConsumerGroupMetadata:
        """Return the member as it stands. Its generation fences sinks: let them refuse what comes from an older one."""
        application = self._group_of("group_metadata")
        group = self._side(application)
        with self._lock:
            self._check_open()
            member = group.member
            state = {Phase.JOINED: "STABLE" if member.is_complete and not application.changes else "REBALANCING"}
            return ConsumerGroupMetadata(
                group.group_id,
                application.member_epoch,
                application.member_id or member.member_id,
                self.config.group_instance_id,
                state.get(member.phase, "UNJOINED"),
            )

    # -- polling -----------------------------------------------------------------------------------

    def _before_reading(self, application: Application) -> None:
        """A thread of the application has come: what it was given before it has done with."""
        group = self._side(application)
        is_member = self._inbox.subscription is not None
        if is_member and (application.comes_first() or group.member.phase is Phase.STUCK):
            self._io.post(group.look)
        if application.should_commit():
            self._commit_automatically(application)
        if application.ended:
            application.run_callbacks()

    def _commit_automatically(self, application: Application) -> None:
        with self._lock:
            self._check_open()
            offsets = application.done_with()
            member_id, epoch = self._name(application)
        if not offsets:
            return
        call = self.config.default_offset_commit_callback

        def done(_: None, error: BaseException | None) -> None:
            if call is not None:
                application.ended.append(EndedCommit(call, offsets, _known(error)))
            elif error is not None:
                self._on_commit_failed(offsets, _known(error))

        self._post_commit(application, offsets, member_id, epoch, done)

    # -- changes -----------------------------------------------------------------------------------

    def _perform(self, application: Application, change: Change) -> None:
        """Do one change of the assignment, and tell the I/O thread."""
        try:
            if change.kind == "assigned":
                with self._lock:
                    taken = application.take_over(change)
                application.on_partitions("assigned", taken)
            elif change.kind == "revoked":
                with self._lock:
                    held = set(self._inbox.readers).intersection(change.partitions)
                self._give_back(application, change, held)
            else:
                with self._lock:
                    held = set(self._inbox.readers).intersection(change.partitions)
                    application.give_up(change)
                if held:
                    log.warning("%s: lost %s: %s", self.client_id, ", ".join(map(str, sorted(held))), change.why)
                application.on_partitions("lost", held)
        finally:
            self._io.post(self._side(application).on_performed, change)

    def _give_back(self, application: Application, change: Change, held: set[TopicPartition]) -> None:
        """Commit, tell the listener, give up: the last one whatever becomes of the others, Ctrl-C among it."""
        try:
            self._commit_before_giving_back(application, held)
        finally:
            try:
                application.on_partitions("revoked", held)
            finally:
                with self._lock:
                    application.give_up(change)

    def _commit_before_giving_back(
        self, application: Application, partitions: set[TopicPartition], bound_ms: float = GIVE_BACK_MS_MAX
    ) -> None:
        """What the application has done with is committed before others begin where it was left."""
        if not self.config.enable_auto_commit:
            return
        with self._lock:
            offsets = application.done_with(partitions)
            member_id, epoch = self._name(application)
        if not offsets:
            return
        try:
            self._commit_now(application, offsets, member_id, epoch, min(bound_ms, self.config.request_timeout_ms))
        except CallboardError as error:  # they go all the same; what was not committed is read again by others
            (self.config.default_offset_commit_callback or self._on_commit_failed)(offsets, error)

    def _leave_group(self, bound_ms: float, *, autocommit: bool) -> None:
        """Give back everything: commit, tell the listener, leave."""
        if self._application is not None:
            with self._turn_to_leave(self._application, bound_ms) as (may_tell, until_ms):
                self._leave_in_turn(self._application, until_ms, autocommit=autocommit, may_tell=may_tell)

    @contextmanager
    def _turn_to_leave(self, application: Application, bound_ms: float) -> Iterator[tuple[bool, float]]:
        """A thread that performs a change finishes it first, for ``bound_ms`` at most.

        Yields whether the listener may be called, and until when the rest must be done.
        """
        until_ms = self._io.clock.monotonic_ms() + bound_ms
        if application.turn.is_ours:  # the listener itself leaves
            yield True, until_ms
            return
        with application.turn.taken(bound_ms / 1000) as is_taken:
            if not is_taken:
                log.warning(
                    "%s: a rebalance listener is still busy in another thread; leaving without it", self.client_id
                )
            yield is_taken, until_ms

    def _wait_for_leaving(self, application: Application) -> None:
        """Another thread may be about to leave: what is subscribed meanwhile comes behind that."""
        if application.has_left and not application.turn.is_ours and not self._is_on_loop:
            with application.turn.taken(self.config.close_timeout_ms / 1000):
                pass

    def _leave_in_turn(self, application: Application, until_ms: float, *, autocommit: bool, may_tell: bool) -> None:
        with self._lock:
            if application.has_left:
                return
            application.on_leaving()
            held = set() if self._is_assigned_by_hand else set(self._inbox.readers)
            everything = set(self._inbox.readers)
            is_committing = autocommit and self.config.enable_auto_commit
            last = application.done_with(everything) if is_committing and held else {}
            name = self._name(application)
            application.named.clear()
        if autocommit and not held:  # assigned by hand: there is nobody to leave
            self._commit_before_giving_back(application, everything, self._left_ms(until_ms))
        try:
            if may_tell:
                application.on_partitions("revoked", held)
        finally:
            with self._lock:
                application.changes.clear()
                application.former.update(dict.fromkeys(held, name))
                application.handing = None
                last = {key: given for key, given in last.items() if key not in application.named}
            if last:
                bound_ms = min(self._left_ms(until_ms), self.config.request_timeout_ms)
                self._leave_with(application, last, *name, bound_ms)

    def _left_ms(self, until_ms: float) -> float:
        return max(0.0, until_ms - self._io.clock.monotonic_ms())

    def _leave_with(self, application: Application, last: Offsets, member_id: str, epoch: int, bound_ms: float) -> None:
        """Say farewell with what the application has done with: others begin there, as soon as that survives."""
        until_ms = int(self._io.clock.monotonic_ms() + max(1, bound_ms))
        commit = Commit(last, member_id, epoch, is_waiting=True, until_ms=until_ms)
        try:
            self._leave_now(commit, bound_ms)
            application.on_committed(last)
        except CallboardError as error:  # it leaves all the same; what was not committed is read again by others
            (self.config.default_offset_commit_callback or self._on_commit_failed)(last, error)

    def _leave_now(self, last: Commit, bound_ms: float) -> None:
        self._io.ask(lambda done: self._fetching.leave(done, last), bound_ms / 1000 + 1, "commit")

    # -- inside ------------------------------------------------------------------------------------

    def _on_commit_failed(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], error: CallboardError | None
    ) -> None:
        """Nobody waits for it, and there is no callback: say so. On any thread."""
        if error is not None:
            where = ", ".join(f"{key}@{at.offset}" for key, at in offsets.items())
            log.warning("commit of %s failed: %s", where, error)
            self._fetching.cluster.hook.tell(error)

    def _commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata | int] | None, timeout_ms: int | None) -> None:
        bound_ms = self._bound_ms(timeout_ms)
        application = self._group_of("commit")
        while True:
            with self._lock:
                self._check_open()
                given, member_id, epoch = self._to_commit(application, offsets)
            try:
                self._commit_now(application, given, member_id, epoch, bound_ms)
                return
            except CommitFailedError:
                if offsets is not None or not self._has_given_back_some(application, given, member_id):
                    raise

    def _has_given_back_some(self, application: Application, given: Offsets, member_id: str) -> bool:
        """Say whether another thread has given some of these partitions back meanwhile: what is left can be committed.
        Not if all went, nor if they were lost: that must be told, though the member may have joined again."""
        with self._lock:
            gone = sum(key not in self._inbox.readers for key in given)
            return self._name(application)[0] == member_id and 0 < gone < len(given)

    def _group_of(self, what: str) -> Application:
        if self._application is None:
            self._check_open()
            raise IllegalStateError(f"{what}: this consumer has no group; give it a group_id")
        return self._application

    def _side(self, application: Application) -> GroupSide:
        if application.group is None:
            raise IllegalStateError("the consumer has no group")
        return application.group

    def _name(self, application: Application) -> tuple[str, int]:
        """Return under which name and epoch the application holds its partitions."""
        return ("", -1) if self._is_assigned_by_hand else (application.member_id, application.member_epoch)

    def _to_commit(
        self, application: Application, offsets: Mapping[TopicPartition, OffsetAndMetadata | int] | None
    ) -> tuple[Offsets, str, int]:
        """Return what to commit, and under which name."""
        self._inbox.sort()
        readers = self._inbox.readers
        if offsets is None:
            member = self._side(application).member
            if not readers and member.phase is Phase.BARRED and member.error is not None:
                raise member.error  # what it had was lost: this is no success
            positions = {
                key: OffsetAndMetadata(reader.position)
                for key, reader in readers.items()
                if reader.position is not None
            }
            application.named.update(positions)
            return positions, *self._name(application)
        given = checked_offsets(offsets)
        application.named.update(given)
        gone = [key for key in given if key not in readers]
        for key in gone:
            if key not in application.former:
                raise IllegalStateError(f"commit: {key} is not assigned to this consumer")
        return given, *(application.former[gone[0]] if gone else self._name(application))

    def _commit_now(
        self, application: Application, offsets: Offsets, member_id: str, epoch: int, bound_ms: float
    ) -> None:
        group = self._side(application)
        bound = max(1, int(bound_ms))
        application.on_asked(offsets)
        self._io.ask(
            lambda done: group.commit(offsets, member_id, epoch, True, bound, done), bound / 1000 + 1, "commit"
        )
        application.on_committed(offsets)

    def _post_commit(
        self, application: Application, offsets: Offsets, member_id: str, epoch: int, done: Done[None]
    ) -> None:
        group, bound_ms = self._side(application), self.config.request_timeout_ms

        def ended(_: None, error: BaseException | None) -> None:
            if error is None:
                application.on_committed(offsets)
            done(None, error)

        application.on_asked(offsets)
        self._io.post(partial(group.commit, offsets, member_id, epoch, False, bound_ms, ended))


def checked_offsets(offsets: Any) -> Offsets:
    """Return offsets as they are committed; an int is an offset without metadata.

    Raises:
        TypeError, IllegalArgumentError: they are none.
    """
    if not isinstance(offsets, Mapping):
        raise TypeError(f"offsets: expected a dict by TopicPartition, got {type(offsets).__name__}")
    found: Offsets = {}
    for key, given in offsets.items():
        value = OffsetAndMetadata(given) if type(given) is int else given
        if not isinstance(value, OffsetAndMetadata) or type(value.offset) is not int:
            raise TypeError(f"offsets: expected OffsetAndMetadata, got {given!r}")
        if not isinstance(value.metadata, str):
            raise TypeError(f"offsets: metadata: expected str, got {type(value.metadata).__name__}")
        if value.offset < 0:
            raise IllegalArgumentError(f"offsets: {key}: must not be below 0 (given: {value.offset})")
        if value.offset > OFFSET_MAX:
            raise IllegalArgumentError(f"offsets: {key}: must be at most {OFFSET_MAX} (given: {value.offset})")
        check_metadata(key, value.metadata)
        found[as_partition(key)] = value
    return found


def _known(error: BaseException | None) -> CallboardError | None:
    if error is None or isinstance(error, CallboardError):
        return error
    return CallboardError(str(error))
