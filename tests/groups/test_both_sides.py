"""The coordinator's rules and the client's, talking to each other, where either alone does not show what happens."""

import itertools

from callboard.client.membership import Member, MemberSettings, SendHeartbeat
from callboard.errors import ConnectionLostError
from callboard.transport.group_messages import LEAVING

from .desks import Desk, numbers

SETTINGS = MemberSettings("billing", "", ("sticky",), 10_000, 1_000, 20_000)


class Client:
    """A member that takes and gives back at once, at a desk."""

    def __init__(self, desk, name):
        ids = itertools.count(1)
        self.desk, self.asked = desk, {}
        self.member = Member(SETTINGS, lambda: f"{name}/{next(ids)}")
        self.member.is_application_here = True
        self.member.on_subscribe(["orders"], desk.now_ms)

    @property
    def owned(self):
        return sorted(key.partition for key in self.member.owned)

    def speak(self):
        """Send what is due; it waits at the coordinator, perhaps."""
        self._take(self.member.drain(self.desk.now_ms, has_coordinator=True))

    def hear(self):
        """Take the answers that have come."""
        for ticket, number in list(self.asked.items()):
            if (reply := self.desk.replies.get(ticket)) is not None:
                del self.asked[ticket]
                self._take(self.member.on_answer(number, reply, self.desk.now_ms))

    def lose_the_connection(self):
        """What was answered on it is not heard any more."""
        self.asked.clear()
        self._take(self.member.on_coordinator_lost(ConnectionLostError("cut"), self.desk.now_ms))

    def live(self):
        self.speak()
        self.hear()

    def _take(self, effects):
        for effect in effects:
            if isinstance(effect, SendHeartbeat):
                self.asked[self.desk.send(effect.request)] = effect.number
        if self.member.revoking:
            self._take(self.member.on_revoked(list(self.member.revoking)))


def said_to(desk, name):
    """Return the assignment that a member hears of which knows nothing."""
    return desk.heartbeat(name, 1).assignment


def test_what_was_given_and_asked_for_before_a_member_heard_of_it_goes_to_another_at_once():
    desk = Desk()
    one = Client(desk, "one")
    one.live()
    desk.join("two")
    one.live()  # gives half of it back …
    one.speak()  # … and says so
    one.hear()
    assert (one.owned, numbers(said_to(desk, "two"))) == ([0, 1], [2, 3])

    desk.heartbeat("two", LEAVING)  # now all is one's; but the connection ends with the answer that says so,
    desk.join("three")  # … and then half of it is not any more
    one.lose_the_connection()
    desk.pass_time(5)
    one.live()  # hears of the one half
    one.live()  # says what it owns

    assert one.owned == [0, 1]
    assert numbers(said_to(desk, "three")) == [2, 3]
