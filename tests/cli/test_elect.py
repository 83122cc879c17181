"""``callboard elect``, and what ``topics describe`` tells of replicas, over an admin client that is a fake."""

import orjson
import pytest

from callboard.cli.exits import ExitStatus
from callboard.errors import ErrorCode
from callboard.model import TopicPartition
from callboard.transport import messages as m

TOPIC = m.TopicMetadata(
    name="orders",
    topic_id="a" * 32,
    partitions=[
        m.PartitionMetadata(partition=0, leader=2, leader_epoch=7, replicas=[1, 2, 3], isr=[2], elr=[1]),
        m.PartitionMetadata(partition=1, leader=-1, leader_epoch=3, replicas=[3, 1, 2], isr=[3]),
    ],
)
FOLLOWERS = [
    m.FollowerDescription(broker_id=1, log_end_offset=88, durable_offset=80, lag=12, is_in_sync=False),
    m.FollowerDescription(broker_id=3),
]
LEADER = m.ReplicaDescription(
    topic_id="a" * 32,
    partition=0,
    role="leader",
    leader_epoch=7,
    log_start_offset=0,
    log_end_offset=100,
    high_watermark=88,
    durable_offset=95,
    isr=[2],
    followers=FOLLOWERS,
)


class FakeAdmin:
    def __init__(self, errors):
        self.errors, self.asked = errors, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def describe_topics(self, names=None):
        return [TOPIC]

    def describe_configs(self, names):
        return {"orders": {"flush": "ack"}}

    def describe_replicas(self, names):
        return {2: [LEADER]}

    def elect_leaders(self, election, partitions, timeout_ms, raise_errors):
        self.asked.append((election, partitions))
        return {
            TopicPartition("orders", number): m.ElectLeadersEntryReply(
                topic="orders", partition=number, error=error, detail="why" if error else "", leader=1, leader_epoch=8
            )
            for number, error in self.errors.items()
        }


class FakeClients:
    def __init__(self, errors=None):
        self.the_admin = FakeAdmin(errors or {})

    def admin(self, bootstrap_servers, timeout_ms):
        return self.the_admin


def test_preferred_leaders_everywhere(callboard):
    clients = FakeClients({0: 0})

    ended = callboard("elect", "--preferred", clients=clients)

    assert clients.the_admin.asked == [("preferred", None)]
    assert ended.status == ExitStatus.OK
    assert ended.out.splitlines()[-1].split() == ["orders", "0", "1", "8", "elected"]


def test_of_one_topic_all_partitions_or_one(callboard):
    clients = FakeClients({0: 0})
    callboard("elect", "--preferred", "--topic", "orders", clients=clients)
    callboard("elect", "--unclean", "--topic", "orders", "--partition", "1", clients=clients)

    both = [TopicPartition("orders", 0), TopicPartition("orders", 1)]
    assert clients.the_admin.asked == [("preferred", both), ("unclean", both[1:])]


def test_nothing_to_elect(callboard):
    assert callboard("elect", "--preferred", clients=FakeClients()).out == "no election was needed\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ErrorCode.ELECTION_NOT_NEEDED, ExitStatus.OK),
        (ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, ExitStatus.REFUSED),
        (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ExitStatus.REFUSED),
    ],
)
def test_who_was_not_elected_is_told_with_the_reason(callboard, error, status):
    ended = callboard("elect", "--preferred", clients=FakeClients({0: 0, 1: int(error)}))

    assert f"{error.name}: why" in ended.out
    assert ended.status == status


def test_an_unclean_election_warns_of_what_is_lost(callboard):
    assert "lost" in callboard("elect", "--unclean", clients=FakeClients({0: 0})).err
    assert callboard("elect", "--unclean", clients=FakeClients()).err == ""


def test_as_json(callboard):
    (row,) = orjson.loads(callboard("elect", "--preferred", "--json", clients=FakeClients({0: 0})).out)

    assert row == {"topic": "orders", "partition": 0, "leader": 1, "leader_epoch": 8, "error": "", "detail": ""}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "--preferred or --unclean"), (["--preferred", "--partition", "1"], "--partition needs --topic")],
)
def test_wrong_use_is_told(callboard, arguments, said):
    ended = callboard("elect", *arguments, clients=FakeClients())

    assert ended.status == ExitStatus.USAGE
    assert said in ended.err


def test_the_table_tells_each_followers_lag_and_who_is_eligible(callboard):
    lines = callboard("topics", "describe", "orders", clients=FakeClients()).out.splitlines()

    led, leaderless = (line.split() for line in lines[-2:])
    assert led[:9] == ["0", "2", "7", "1,2,3", "2", "0", "100", "88", "95"]
    assert led[-3:] == ["1:12", "3:?", "1"]
    assert leaderless[:5] == ["1", "none", "3", "3,1,2", "3"]
    assert leaderless[-1] == "none"


def test_json_tells_all_of_it(callboard):
    (topic,) = orjson.loads(callboard("topics", "describe", "orders", "--json", clients=FakeClients()).out)

    partition = topic["partitions"][0]
    assert (partition["isr"], partition["elr"]) == ([2], [1])
    assert partition["hosted"]["2"]["durable_offset"] == 95
    assert partition["hosted"]["2"]["followers"][0]["lag"] == 12
