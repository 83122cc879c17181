"""Who may decide: the rules of the controller lease. Pure; the time is handed in.

The lease only *chooses* a controller. Safety is the controller epoch: it is durable, grows with each grant,
and every commit is compared with it in the store, so it does no harm when two believe to hold the lease (R5,
B26). Rules:

1. Granted when vacant, to a session that is open; with an epoch above all before (R8).
2. Whoever holds it and asks again gets a new epoch: it is another life of the controller actor, and what the
   earlier one sent late must not count.
3. It ends when it is not renewed for its time, is resigned, or its holder's session ends. Then nobody's
   commits count until it is granted again (the store compares with a lease that is *held*).
4. As for sessions: one monotonic clock, in memory; after a restart the holder has its whole time again; the
   metadata process's own sleep does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

TTL_MS_MIN, TTL_MS_MAX = 100, 600_000


@dataclass(slots=True)
class Lease:
    """``holder`` empty: vacant. ``controller_epoch`` is the latest granted; it only grows."""

    holder: str = ""
    incarnation: str = ""
    controller_epoch: int = 0
    ttl_ms: int = 1_500
    deadline_ms: int = 0  # > now while held; moved by grants, renewals and slept

    @property
    def is_held(self) -> bool:
        return bool(self.holder)

    def restore(self, holder: str, incarnation: str, controller_epoch: int, ttl_ms: int, now_ms: int) -> None:
        """Take it over from what is stored (rule 4)."""
        self.holder, self.incarnation, self.controller_epoch = holder, incarnation, controller_epoch
        self.ttl_ms, self.deadline_ms = ttl_ms, now_ms + ttl_ms

    def campaign(self, name: str, incarnation: str, ttl_ms: int, now_ms: int) -> bool:
        """Ask for it, in the name of an open session. True: granted, under a new epoch."""
        if self.is_held and (self.holder, self.incarnation) != (name, incarnation):
            return False
        self.holder, self.incarnation = name, incarnation
        self.controller_epoch += 1
        self.ttl_ms = min(max(ttl_ms, TTL_MS_MIN), TTL_MS_MAX)
        self.deadline_ms = now_ms + self.ttl_ms
        return True

    def renew(self, name: str, controller_epoch: int, now_ms: int) -> bool:
        """Keep it. False: it is not that holder's, or not under that epoch."""
        if (self.holder, self.controller_epoch) != (name, controller_epoch):
            return False
        self.deadline_ms = max(self.deadline_ms, now_ms + self.ttl_ms)
        return True

    def resign(self, name: str, controller_epoch: int) -> bool:
        """Give it up. False: it is not that holder's, or not under that epoch."""
        if not self.is_held or (self.holder, self.controller_epoch) != (name, controller_epoch):
            return False
        self.holder = self.incarnation = ""
        return True

    def session_ended(self, name: str, incarnation: str) -> bool:
        """Hear of the end of a session. True: the lease was its and is vacant now."""
        if not self.is_held or (self.holder, self.incarnation) != (name, incarnation):
            return False
        self.holder = self.incarnation = ""
        return True

    def expire(self, now_ms: int) -> bool:
        """True: its time is over and it is vacant now."""
        if not self.is_held or self.deadline_ms > now_ms:
            return False
        self.holder = self.incarnation = ""
        return True

    def slept(self, for_ms: int) -> None:
        """This process was not running for a while: that does not count."""
        self.deadline_ms += for_ms
