"""Joining: which broker ids belong to which host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.metadata.documents import HostDocument
from callboard.actors.metadata.joining import BROKER_ID_MAX, HOSTS_MAX, JoinRefused, Wish, claim
from callboard.errors import ErrorCode
from callboard.testing.metadata_cluster import MetadataCluster
from callboard.transport import messages as m

FIRST = {"host": HostDocument(home="c", broker_ids=(1, 2, 3))}


def wish(name="b", home="h", brokers=2, first=0, cluster_id=""):
    return Wish(name, home, brokers, first, cluster_id)


def claimed(wish_, claims=FIRST, registered=(1, 2, 3)):
    result = claim(wish_, "c", claims, registered)
    assert isinstance(result, HostDocument), result
    return result.broker_ids


def refused(wish_, claims=FIRST, registered=(1, 2, 3)):
    result = claim(wish_, "c", claims, registered)
    assert isinstance(result, JoinRefused), result
    return result


def test_a_new_host_gets_the_next_ids():
    assert claimed(wish()) == (4, 5)


def test_ids_that_were_ever_registered_are_not_given_again():
    assert claimed(wish(), registered=(1, 2, 3, 7)) == (8, 9)


def test_a_host_that_comes_again_gets_its_ids_again_and_more_when_it_has_more_brokers():
    claims = {**FIRST, "b": HostDocument(home="h", broker_ids=(4, 5)), "z": HostDocument(home="i", broker_ids=(6,))}

    assert claimed(wish(), claims, registered=(1, 4, 5, 6)) == (4, 5)
    assert claimed(wish(brokers=1), claims) == (4, 5)  # the second stays reserved
    assert claimed(wish(brokers=3), claims) == (4, 5, 7)


def test_ids_by_name_must_be_free_or_ours():
    claims = {**FIRST, "b": HostDocument(home="h", broker_ids=(10, 11))}

    assert claimed(wish(first=10)) == (10, 11)
    assert claimed(wish(first=10), claims) == (10, 11)
    assert claimed(wish(first=10, brokers=1), claims) == (10, 11)
    assert claimed(wish(first=10, brokers=3), claims) == (10, 11, 12)
    assert "broker 3 is of host 'host'" in refused(wish(first=3)).detail
    assert "broker 8 is taken" in refused(wish(first=7), registered=(8,)).detail
    assert "are 10, 11" in refused(wish(first=20), claims).detail


def test_a_name_and_a_data_directory_belong_together():
    claims = {**FIRST, "b": HostDocument(home="h", broker_ids=(4,))}

    assert "--host-name" in refused(wish(home="other"), claims).detail
    assert "of host 'b'" in refused(wish(name="c"), claims).detail
    assert refused(wish(name="c"), claims).error == ErrorCode.DUPLICATE_BROKER_REGISTRATION


def test_a_directory_of_another_cluster_is_refused():
    assert refused(wish(cluster_id="d")).error == ErrorCode.INCONSISTENT_CLUSTER_ID
    assert claimed(wish(cluster_id="c")) == (4, 5)


BAD_NAMES = ("", "a/b", "broker-9", "metadata", "x" * 101)


@pytest.mark.parametrize(
    "bad",
    [
        *(wish(name=name) for name in BAD_NAMES),
        wish(home=""),
        wish(home="x" * 101),
        wish(brokers=0),
        wish(brokers=65),
        wish(first=-1),
    ],
)
def test_what_is_no_wish_is_refused(bad):
    assert refused(bad).error == ErrorCode.INVALID_REQUEST


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.sampled_from([0, 0, 0, 1, 4, 9])),
        min_size=1,
        max_size=12,
    )
)
def test_no_id_is_ever_of_two_hosts_and_none_is_lost(wishes):
    claims = {}
    for name, brokers, first in wishes:
        before = claims[name].broker_ids if name in claims else ()
        result = claim(wish(name, f"home of {name}", brokers, first), "c", claims, ())
        if isinstance(result, JoinRefused):
            assert first
            continue
        claims[name] = result
        assert result.broker_ids[: len(before)] == before
        assert len(result.broker_ids) >= brokers

    given_ = [number for document in claims.values() for number in document.broker_ids]
    assert len(given_) == len(set(given_))


def test_hosts_and_ids_are_bounded():
    many = {f"h{number}": HostDocument(home=f"h{number}", broker_ids=(number,)) for number in range(1, HOSTS_MAX + 1)}
    assert refused(wish(), many).error == ErrorCode.LIMIT_EXCEEDED
    assert claimed(wish(name="h7", home="h7", brokers=1), many) == (7,)

    last = {"z": HostDocument(home="z", broker_ids=(BROKER_ID_MAX,))}
    assert refused(wish(), last, registered=()).error == ErrorCode.LIMIT_EXCEEDED
    assert claimed(wish(first=5), last, registered=()) == (5, 6)


# -- at the metadata process ---------------------------------------------------------------------------


@pytest.fixture
def cluster():
    cluster = MetadataCluster()
    cluster.start_metadata()
    cluster.settle()
    return cluster


def join(cluster, name, home, **fields):
    return cluster.ask_store(m.JoinRequest(host_name=name, home=home, **fields))


def test_hosts_that_join_get_ids_of_their_own_and_keep_them_over_a_crash(cluster):
    first, second = join(cluster, "a", "1", brokers=3), join(cluster, "b", "2", brokers=2)
    assert (first.broker_ids, second.broker_ids) == ([1, 2, 3], [4, 5])

    cluster.kill_metadata()
    cluster.start_metadata()
    cluster.settle()

    assert join(cluster, "b", "2", brokers=2).broker_ids == [4, 5]
    assert join(cluster, "c", "3", brokers=1).broker_ids == [6]
    assert first.cluster_id == cluster.ask_store(m.StoreLoadRequest()).cluster_id


def test_a_refusal_says_why(cluster):
    join(cluster, "a", "1")

    assert join(cluster, "a", "2").error == ErrorCode.DUPLICATE_BROKER_REGISTRATION
    assert join(cluster, "b", "3", cluster_id="another").error == ErrorCode.INCONSISTENT_CLUSTER_ID
