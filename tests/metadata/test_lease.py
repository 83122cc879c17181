"""The lease: one holder, epochs that only grow."""

from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.metadata.lease import Lease

T = 1_500


def a_lease(holder="broker-1", now_ms=0):
    lease = Lease()
    assert lease.campaign(holder, "a", T, now_ms)
    return lease


def test_a_vacant_lease_is_granted_under_the_next_epoch():
    lease = Lease(controller_epoch=7)

    assert lease.campaign("broker-1", "a", T, now_ms=0)
    assert (lease.holder, lease.controller_epoch) == ("broker-1", 8)


def test_a_held_lease_is_nobody_elses():  # B26
    lease = a_lease()

    assert not lease.campaign("broker-2", "b", T, now_ms=10)
    assert (lease.holder, lease.controller_epoch) == ("broker-1", 1)


def test_the_holder_who_asks_again_gets_a_new_epoch():
    lease = a_lease()

    assert lease.campaign("broker-1", "a", T, now_ms=10)
    assert lease.controller_epoch == 2
    assert not lease.renew("broker-1", 1, now_ms=20)


def test_another_life_of_the_holder_waits_like_everybody():
    lease = a_lease()

    assert not lease.campaign("broker-1", "another life", T, now_ms=10)


def test_it_ends_when_it_is_not_renewed():
    lease = a_lease()

    assert not lease.expire(T - 1)
    assert lease.renew("broker-1", 1, T - 1)
    assert not lease.expire(2 * T - 2)
    assert lease.expire(2 * T - 1)
    assert not lease.is_held
    assert not lease.renew("broker-1", 1, 2 * T)


def test_an_expired_lease_keeps_its_epoch_for_the_next_to_exceed():  # R8
    lease = a_lease()
    lease.expire(T)

    assert lease.controller_epoch == 1
    assert lease.campaign("broker-2", "b", T, T)
    assert lease.controller_epoch == 2


def test_it_ends_with_the_holders_session_and_no_others():
    lease = a_lease()

    assert not lease.session_ended("broker-2", "a")
    assert not lease.session_ended("broker-1", "an earlier life")
    assert lease.session_ended("broker-1", "a")
    assert not lease.is_held


def test_only_the_holder_resigns():
    lease = a_lease()

    assert not lease.resign("broker-2", 1)
    assert not lease.resign("broker-1", 0)
    assert lease.resign("broker-1", 1)
    assert not lease.resign("broker-1", 1)


def test_after_a_restart_the_holder_has_its_whole_time():  # B27
    lease = Lease()
    lease.restore("broker-1", "a", 5, T, now_ms=3)

    assert not lease.expire(3 + T - 1)
    assert lease.renew("broker-1", 5, 3 + T - 1)


def test_the_stores_own_sleep_does_not_count():
    lease = a_lease()
    lease.slept(10_000)

    assert not lease.expire(T + 9_999)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["campaign", "renew", "resign", "ended", "expire"]),
        st.sampled_from(["x", "y"]),
        st.integers(0, 6),
        st.integers(0, 2_000),
    ),
    max_size=40,
)


@given(EVENTS)
def test_epochs_only_grow_and_each_belongs_to_one_holder(events):
    lease, now_ms, holders, last = Lease(), 0, {}, 0
    for what, name, epoch, passed_ms in events:
        now_ms += passed_ms
        if what == "campaign":
            was = lease.holder
            if lease.campaign(name, name, T, now_ms):
                assert was in ("", name)
                assert lease.controller_epoch not in holders
                holders[lease.controller_epoch] = name
        elif what == "renew":
            assert lease.renew(name, epoch, now_ms) == (lease.holder == name and lease.controller_epoch == epoch)
        elif what == "resign":
            lease.resign(name, epoch)
        elif what == "ended":
            lease.session_ended(name, name)
        else:
            lease.expire(now_ms)
        assert lease.controller_epoch >= last
        last = lease.controller_epoch
        if lease.is_held:
            assert holders[lease.controller_epoch] == lease.holder
