"""Replies that had to wait: in order, bounded, forgotten with their peer."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from callboard.transport.outbox import Outbox, Sent

A, B = b"\0a", b"\0b"


class Pipes:
    """Fake pipes: each has room for some messages, or is gone."""

    def __init__(self, bytes_max=100):
        self.room = defaultdict(lambda: 10**9)
        self.gone = set()
        self.taken = defaultdict(list)
        self.log = []
        self.outbox = Outbox(
            self.try_send,
            bytes_max,
            on_sent=lambda peer, size: self.log.append(("sent", peer, size)),
            on_dropped=lambda peer: self.log.append(("dropped", peer)),
            on_gone=lambda peer: self.log.append(("gone", peer)),
        )

    def try_send(self, frames):
        peer = frames[0]
        if peer in self.gone:
            return Sent.GONE
        if self.room[peer] <= 0:
            return Sent.FULL
        self.room[peer] -= 1
        self.taken[peer].append(frames[1])
        return Sent.YES

    def send(self, peer, text, size=10):
        self.outbox.send(peer, (peer, text), size)


def test_what_fits_is_sent_at_once():
    pipes = Pipes()

    pipes.send(A, "1")

    assert pipes.taken[A] == ["1"]
    assert pipes.outbox.is_empty


def test_what_does_not_fit_waits_and_keeps_its_place():
    pipes = Pipes()
    pipes.room[A] = 1
    for text in "123":
        pipes.send(A, text)
    pipes.room[A] = 1
    pipes.send(A, "4")  # there is room, but others wait

    assert pipes.taken[A] == ["1"]
    assert pipes.outbox.waiting_bytes(A) == 30
    assert pipes.outbox.retry()
    pipes.room[A] = 9
    assert pipes.outbox.retry()
    assert not pipes.outbox.retry()
    assert pipes.taken[A] == ["1", "2", "3", "4"]
    assert pipes.outbox.is_empty


def test_a_full_peer_does_not_hold_up_the_others():
    pipes = Pipes()
    pipes.room[A] = 0
    pipes.send(A, "1")
    pipes.send(B, "2")

    assert pipes.taken[B] == ["2"]


def test_over_the_bound_new_replies_are_dropped_and_counted():
    pipes = Pipes(bytes_max=25)
    pipes.room[A] = 0
    for text in "1234":
        pipes.send(A, text)

    assert pipes.log.count(("dropped", A)) == 2
    assert pipes.outbox.waiting_bytes(A) == 20


def test_one_reply_above_the_bound_may_wait_alone():
    pipes = Pipes(bytes_max=25)
    pipes.room[A] = 0
    pipes.send(A, "big", size=1_000)
    pipes.send(A, "2")
    pipes.room[A] = 9
    pipes.outbox.retry()

    assert pipes.taken[A] == ["big"]


def test_a_reply_that_may_not_wait_is_dropped():
    pipes = Pipes()
    pipes.room[A] = 0
    pipes.outbox.send(A, (A, "1"), 10, may_wait=False)

    assert pipes.log == [("dropped", A)]
    assert pipes.outbox.is_empty


def test_a_peer_that_is_gone_takes_its_queue_along():
    pipes = Pipes()
    pipes.room[A] = 0
    pipes.send(A, "1")
    pipes.gone.add(A)

    assert not pipes.outbox.retry()
    assert pipes.log == [("gone", A)]
    assert pipes.outbox.is_empty
    pipes.send(A, "2")
    assert pipes.log == [("gone", A)] * 2


@given(
    st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(["send", "room", "retry", "gone"]), st.integers(1, 40)))
)
def test_order_is_kept_nothing_is_sent_twice_and_the_bound_holds(steps):
    pipes = Pipes(bytes_max=60)
    pipes.room.update({A: 0, B: 0})
    for number, (peer, what, amount) in enumerate(steps):
        if what == "send":
            pipes.send(peer, number, size=amount)
        elif what == "room":
            pipes.room[peer] = amount % 4
        elif what == "retry":
            pipes.outbox.retry()
        else:
            pipes.outbox.gone(peer)
        for each in (A, B):
            assert pipes.outbox.waiting_bytes(each) <= 60
            assert pipes.taken[each] == sorted(set(pipes.taken[each]))
