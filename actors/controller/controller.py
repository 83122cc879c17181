"""The controller: decides who leads, and changes topics, while it holds the lease.

Every broker has one; the holder of the lease is *active*, the others stand by. It keeps nothing of its own: the
picture is the state. A turn is always the same: look at the newest picture, let the rules say what must change
(``elections``), take what was asked meanwhile (``commands``), send it all as one commit. Rules of this file:

1. **One commit at a time.** The next turn waits until the picture holds the last one's result.
2. **Nothing is decided by what it believes.** Every commit carries the controller epoch and the versions it was
   decided on; refused as stale means that another controller was elected: stand by at once (B26, B28).
3. **Level-triggered.** After a conflict, or any doubt, everything is looked at again; the same picture gives the
   same decisions.
4. **An answer says what happened**: done (durable), not done (and may be tried again), or unknown.
5. The lease counts from when its renewal was *sent*. Past it, it stands by, whatever anybody says later.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...config import ClusterConfig
from ...errors import ErrorCode, InvariantViolated
from ...model import OFFSETS_TOPIC, PartitionKey
from ...transport import messages as m
from ..log import code_text, event
from ..metadata.client import (
    Campaign,
    Commit,
    CommitOutcome,
    Committed,
    Granted,
    LeaseOutcome,
    MetadataChanged,
    Refused,
    Renew,
    Resign,
    SessionLost,
    SessionOpened,
    Subscribe,
    Unknown,
)
from ..metadata.documents import kind_of, partition_of
from ..runtime import Context, LoopActor, LoopRef
from .commands import MakeReply, plan
from .draft import Draft
from .elections import reconcile
from .image import ClusterImage
from .internal import OFFSETS_TOPIC_WANTED, is_offsets_topic_due
from .leadership import rebalance
from .telling import Told, told_of
from .topics import TopicRules

logger = logging.getLogger(__name__)

COMMANDS_WAITING_MAX = 1_000
COMMANDS_PER_COMMIT = 100
PUTS_PER_COMMIT = 50_000  # 10-15 MB: well below what one frame may be
CAMPAIGN_RETRY_MS = 200
COMMIT_RETRY_MS = 50
ROOM_RETRY_MS = 500  # where the metadata process has no room on its disk
RENEWALS_PER_LEASE = 3  # one may be lost, another late
TOLD_MAX = 20  # changes of one commit that are logged one by one; those that lose something always are

STANDBY, CAMPAIGNING, ACTIVE = "standby", "campaigning", "active"


@dataclass(frozen=True, slots=True)
class AdminCommand:
    """Something a broker or a client asks of the controller. ``reply`` gets one reply, without its id.

    ``is_internal``: the cluster itself asks, it may create its own topics.
    """

    request: m.Request
    reply: Callable[[m.Reply], Any]
    is_internal: bool = False


@dataclass(frozen=True, slots=True)
class _CommitEnded:
    number: int
    outcome: CommitOutcome


@dataclass(frozen=True, slots=True)
class _LeaseAnswered:
    """``sent_ms``: when it was asked (rule 5)."""

    outcome: LeaseOutcome
    sent_ms: int
    term: int


@dataclass(frozen=True, slots=True)
class _RenewDue:
    term: int


@dataclass(frozen=True, slots=True)
class _CampaignDue:
    pass


@dataclass(frozen=True, slots=True)
class _ActDue:
    pass


@dataclass(frozen=True, slots=True)
class _RebalanceDue:
    term: int


@dataclass(frozen=True, slots=True)
class _OffsetsTopicDue:
    term: int


@dataclass(slots=True)
class _Planned:
    """A command in the commit that is under way."""

    command: AdminCommand
    make_reply: MakeReply


class Controller(LoopActor):
    """See the top of the file."""

    role = STANDBY
    handlers: ClassVar[Mapping[type, str]] = {
        MetadataChanged: "on_metadata_changed",
        SessionOpened: "on_session_opened",
        SessionLost: "on_session_lost",
        AdminCommand: "on_admin_command",
        _CommitEnded: "on_commit_ended",
        _LeaseAnswered: "on_lease_answered",
        _RenewDue: "on_renew_due",
        _CampaignDue: "on_campaign_due",
        _ActDue: "on_act_due",
        _RebalanceDue: "on_rebalance_due",
        _OffsetsTopicDue: "on_offsets_topic_due",
    }

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None = None,
        *,
        config: ClusterConfig,
        client_address: str,
    ) -> None:
        """``client_address``: of this broker's MetadataClient, which must have been started before."""
        super().__init__(context, address, parent)
        self._rules = TopicRules.of(config)
        self._rebalance_ms = config.broker.leader_rebalance_ms  # 0: by hand only
        self._lease_ttl_ms = config.broker.lease_ttl_ms
        self._client_address = client_address
        self._image = ClusterImage.empty()
        self._session: SessionOpened | None = None
        self._term = 0  # grows with each campaign and each fall; older answers and timers are void
        self._epoch = -1  # the controller epoch while active
        self._lease_until_ms = 0
        self._is_campaign_due = False
        self._look_at: set[PartitionKey] | None = None  # partitions to reconcile; None: all
        self._commands: deque[AdminCommand] = deque()  # at most COMMANDS_WAITING_MAX
        self._planned: list[_Planned] = []  # in the commit under way
        self._told: list[Told] = []  # likewise, for the log
        self._is_rebalance_due = False  # preferred leaders are looked at in the next turn
        self._commit_number = 0
        self._is_committing = False
        self._version_needed = 0  # the picture must hold this before the next turn
        self._is_paused = False  # until a newer picture, or a timer
        self._no_room: Refused | None = None  # while paused for that: what whoever asks is told

    @property
    def controller_epoch(self) -> int:
        """The epoch it is active under; -1: it stands by."""
        return self._epoch

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._tell_client(Subscribe(self.actor_ref, with_sessions=True))

    def on_stop(self) -> None:
        if self.role == ACTIVE:
            self._tell_client(Resign(self._epoch))
        self._refuse_all(ErrorCode.NOT_CONTROLLER, "the controller is stopping", ErrorCode.STORE_UNAVAILABLE)

    def on_failure(self, *_: Any) -> None:
        self._refuse_all(ErrorCode.NOT_CONTROLLER, "the controller is being restarted", ErrorCode.INTERNAL)

    # -- what it hears ---------------------------------------------------------------------------------

    def on_metadata_changed(self, changed: MetadataChanged) -> None:
        self._image = changed.image
        self._go_on()
        self._must_look_at(changed.keys)
        lease = self._image.lease
        if self.role == ACTIVE and lease.controller_epoch > self._epoch:
            self._stand_by("another controller was elected")
        elif self.role == ACTIVE and lease.controller_epoch == self._epoch and not lease.holder:
            self._stand_by("the lease has ended")
        self._campaign_if_vacant()

    def _must_look_at(self, keys: frozenset[str] | None) -> None:
        """Remember what may need a decision: a change of who is alive concerns everything."""
        if keys is None or any(kind_of(key) == "session" for key in keys):
            self._look_at = None
        elif self._look_at is not None:
            self._look_at |= {partition_of(key) for key in keys if kind_of(key) == "partition"}

    def on_session_opened(self, opened: SessionOpened) -> None:
        self._session = opened
        self._campaign_if_vacant()

    def on_session_lost(self, _: SessionLost) -> None:
        self._session = None
        if self.role != STANDBY:
            self._stand_by("this broker's session has ended")

    def on_admin_command(self, command: AdminCommand) -> None:
        if self.role != ACTIVE:
            command.reply(self._not_controller())
        elif self._no_room is not None:
            command.reply(m.ErrorReply(error=self._no_room.error, detail=self._no_room.detail))
        elif len(self._commands) >= COMMANDS_WAITING_MAX:
            command.reply(m.ErrorReply(error=ErrorCode.OVERLOADED, detail="too many wait for the controller"))
        else:
            self._commands.append(command)

    def on_act_due(self, _: _ActDue) -> None:
        self._go_on()

    def _go_on(self) -> None:
        self._is_paused, self._no_room = False, None

    def on_rebalance_due(self, due: _RebalanceDue) -> None:
        """Look for preferred leaders in the next turn, however busy the turns are."""
        if due.term == self._term and self.role == ACTIVE:
            self._is_rebalance_due = True
            self.set_timer(self._rebalance_ms, due)

    def on_offsets_topic_due(self, due: _OffsetsTopicDue) -> None:
        """Have ``__consumer_offsets`` made before a group asks for it; look again until it is there."""
        if due.term != self._term or self.role != ACTIVE or self._image.topic_named(OFFSETS_TOPIC) is not None:
            return
        if is_offsets_topic_due(self._rules.broker, self._rules.brokers, self._image):
            self.on_admin_command(AdminCommand(OFFSETS_TOPIC_WANTED, lambda _: None, is_internal=True))
        self.set_timer(self._rules.broker.offsets_topic_ahead_ms, due)

    # -- the lease -------------------------------------------------------------------------------------

    def _campaign_if_vacant(self) -> None:
        """Ask for the lease when nobody has it, or when it is held by an earlier life of this actor."""
        lease, session = self._image.lease, self._session
        if self.role != STANDBY or session is None or self._image.version == 0:
            return
        if lease.holder and (lease.holder, lease.incarnation) != (session.name, session.incarnation):
            return
        self.role = CAMPAIGNING
        self._term += 1
        self._ask_for_lease(lambda reply: Campaign(reply))

    def _ask_for_lease(self, question: Callable[[Callable[[LeaseOutcome], None]], Any]) -> None:
        term, sent_ms = self._term, self.context.clock.monotonic_ms()

        def answered(outcome: LeaseOutcome) -> None:
            self.tell_self(_LeaseAnswered(outcome, sent_ms, term))

        if not self._tell_client(question(answered)):
            answered(Unknown("the metadata client is being restarted"))

    def on_lease_answered(self, answered: _LeaseAnswered) -> None:
        if answered.term != self._term:
            return
        outcome = answered.outcome
        if self.role == CAMPAIGNING:
            if isinstance(outcome, Granted):
                self._become_active(outcome.controller_epoch, answered.sent_ms)
            else:
                self.role = STANDBY
                self._campaign_later()
        elif isinstance(outcome, Granted):
            self._lease_until_ms = max(self._lease_until_ms, answered.sent_ms + self._lease_ttl_ms)
        elif isinstance(outcome, Refused) and outcome.error == ErrorCode.STALE_CONTROLLER_EPOCH:
            self._stand_by("the lease is another's")

    def _become_active(self, controller_epoch: int, sent_ms: int) -> None:
        self.role, self._epoch = ACTIVE, controller_epoch
        self._lease_until_ms = sent_ms + self._lease_ttl_ms
        self._look_at = None
        self._version_needed = 0
        self._go_on()
        event(logger, "controller.active", name=self.address, controller_epoch=controller_epoch)
        self.set_timer(self._lease_ttl_ms / RENEWALS_PER_LEASE, _RenewDue(self._term))
        if self._rebalance_ms:
            self.set_timer(self._rebalance_ms, _RebalanceDue(self._term))
        if ahead_ms := self._rules.broker.offsets_topic_ahead_ms:
            self.set_timer(ahead_ms, _OffsetsTopicDue(self._term))

    def on_renew_due(self, due: _RenewDue) -> None:
        if due.term != self._term or self.role != ACTIVE:
            return
        if self.context.clock.monotonic_ms() >= self._lease_until_ms:
            self._stand_by("the lease was not renewed in time")
            return
        self._ask_for_lease(lambda reply: Renew(self._epoch, reply))
        self.set_timer(self._lease_ttl_ms / RENEWALS_PER_LEASE, due)

    def _stand_by(self, why: str) -> None:
        event(logger, "controller.standby", logging.WARNING, name=self.address, epoch=self._epoch, why=why)
        self._term += 1
        self.role, self._epoch = STANDBY, -1
        self._is_committing = False
        self._refuse_all(ErrorCode.NOT_CONTROLLER, why, ErrorCode.STORE_UNAVAILABLE)
        self._campaign_later()

    def _campaign_later(self) -> None:
        if not self._is_campaign_due:
            self._is_campaign_due = True
            self.set_timer(CAMPAIGN_RETRY_MS * (1 + self.context.random.random()), _CampaignDue())

    def on_campaign_due(self, _: _CampaignDue) -> None:
        self._is_campaign_due = False
        self._campaign_if_vacant()

    # -- a turn ----------------------------------------------------------------------------------------

    def on_drained(self) -> None:
        if self._may_act():
            self._act()

    def _may_act(self) -> bool:
        return (
            self.role == ACTIVE
            and not self._is_committing
            and not self._is_paused
            and self.context.clock.monotonic_ms() < self._lease_until_ms  # rule 5: refusals are not compared by a store
            and self._image.version >= self._version_needed
            and self._image.lease.controller_epoch == self._epoch  # else the picture is from before the grant
        )

    def _act(self) -> None:
        draft = Draft(self._image)
        changes = reconcile(self._image, self._look_at, defaults=self._rules.defaults)
        draft.put(changes[:PUTS_PER_COMMIT])
        self._look_at = set() if len(changes) <= PUTS_PER_COMMIT else None
        if self._is_rebalance_due:
            self._is_rebalance_due = False
            draft.put(rebalance(draft.image, defaults=self._rules.defaults)[: PUTS_PER_COMMIT - len(draft)])
        self._plan_commands(draft)
        if len(draft):
            self._commit(draft)
        else:
            planned, self._planned = self._planned, []
            for one in planned:
                one.command.reply(one.make_reply(self._image.version))
            if self._commands:
                self.tell_self(_ActDue())

    def _plan_commands(self, draft: Draft) -> None:
        now_ms, deadline_now_ms = self.context.clock.wall_ms(), self.context.clock.monotonic_ms()
        while self._commands and len(self._planned) < COMMANDS_PER_COMMIT and len(draft) < PUTS_PER_COMMIT:
            command = self._commands.popleft()
            if 0 < command.request.deadline_ms <= deadline_now_ms:
                command.reply(m.ErrorReply(error=ErrorCode.REQUEST_TIMED_OUT, detail="waited for the controller"))
                continue
            make_reply = plan(
                self._rules,
                draft,
                command.request,
                now_ms=now_ms,
                new_id=self.context.new_id,
                is_internal=command.is_internal,
            )
            self._planned.append(_Planned(command, make_reply))

    def _commit(self, draft: Draft) -> None:
        self._is_committing = True
        self._commit_number += 1
        number = self._commit_number
        self._told = told_of(draft, self._rules.defaults)

        def ended(outcome: CommitOutcome) -> None:
            self.tell_self(_CommitEnded(number, outcome))

        if not self._tell_client(Commit(draft.puts(), self._epoch, ended)):
            ended(Refused(ErrorCode.STORE_UNAVAILABLE, "the metadata client is being restarted"))

    def on_commit_ended(self, ended: _CommitEnded) -> None:
        if ended.number != self._commit_number or not self._is_committing:
            return
        self._is_committing = False
        outcome = ended.outcome
        if isinstance(outcome, Committed):
            self._version_needed = outcome.version
            self._tell()
            planned, self._planned = self._planned, []
            for one in planned:
                one.command.reply(one.make_reply(outcome.version))
        elif isinstance(outcome, Unknown):
            self._stand_by(f"a commit's outcome is unknown: {outcome.detail}")
        elif outcome.error == ErrorCode.STALE_CONTROLLER_EPOCH:
            self._commands.extendleft(one.command for one in reversed(self._planned))
            self._planned = []
            self._stand_by("another controller was elected")
        elif outcome.error in _MAY_PASS:
            self._try_again(outcome)
        elif outcome.error == ErrorCode.STORAGE_FULL:
            self._wait_for_room(outcome)
        else:
            self._give_up(outcome)

    def _try_again(self, refused: Refused) -> None:
        """Decide all of it anew on a newer picture: it was overtaken, or never reached the store."""
        event(logger, "controller.retry", error=code_text(refused.error), detail=refused.detail)
        self._commands.extendleft(one.command for one in reversed(self._planned))
        self._planned = []
        self._look_at = None
        self._is_paused = True
        self.set_timer(COMMIT_RETRY_MS, _ActDue())

    def _wait_for_room(self, refused: Refused) -> None:
        """Tell whoever asked: to make room is for people. What the picture asks for is decided again, later."""
        event(logger, "controller.retry", logging.WARNING, error=refused.error, detail=refused.detail)
        self._refuse_planned(refused)
        self._is_paused, self._no_room = True, refused
        self.set_timer(ROOM_RETRY_MS, _ActDue())

    def _give_up(self, refused: Refused) -> None:
        """The store will never take this: somebody asked for too much, or it is a bug."""
        if not self._planned:
            raise InvariantViolated(f"the store refuses what the controller decided: {refused.detail}")
        self._refuse_planned(refused)

    def _refuse_planned(self, refused: Refused) -> None:
        planned, self._planned = self._planned, []
        self._look_at = None
        for one in planned:
            one.command.reply(m.ErrorReply(error=refused.error, detail=refused.detail))

    # -- inside ----------------------------------------------------------------------------------------

    def _refuse_all(self, error: ErrorCode, detail: str, under_way: ErrorCode) -> None:
        """Answer everybody who waits; ``under_way``: to those whose commit may still happen."""
        planned, self._planned = self._planned, []
        commands, self._commands = self._commands, deque()
        for one in planned:
            one.command.reply(m.ErrorReply(error=under_way, detail=detail))
        for command in commands:
            command.reply(m.ErrorReply(error=error, detail=detail))

    def _not_controller(self) -> m.ErrorReply:
        controller_id = self._image.controller_id
        who = f"broker {controller_id} is the controller" if controller_id >= 0 else "there is no controller just now"
        return m.ErrorReply(error=ErrorCode.NOT_CONTROLLER, detail=who)

    def _tell_client(self, message: Any) -> bool:
        client = self.context.directory.find(self._client_address)
        return client is not None and client.post(message)

    def _tell(self) -> None:
        """Log what the last commit changed. Much at once (a broker's end) is told in numbers."""
        one_by_one = [told for number, told in enumerate(self._told) if number < TOLD_MAX or told.level > logging.INFO]
        for told in one_by_one:
            event(logger, told.name, told.level, **told.fields, controller_epoch=self._epoch)
        if more := len(self._told) - len(one_by_one):
            event(logger, "partitions.changed", more=more, controller_epoch=self._epoch)
        self._told = []


_MAY_PASS = frozenset(
    {
        ErrorCode.STORE_CONFLICT,
        ErrorCode.STORE_UNAVAILABLE,
        ErrorCode.BROKER_NOT_AVAILABLE,
        ErrorCode.OVERLOADED,
    }
)
