"""Several hosts in one cluster while nothing is cut: one pair of them for all tests that only use it."""

import orjson
import pytest

from callboard import AdminClient, Producer
from callboard.testing.hosts import joined_hosts

from .joined import DEADLINE_S, live, placed, read_all

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def hosts():
    with joined_hosts({"a": 2, "b": 2}) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def admin(hosts):
    with AdminClient(bootstrap_servers=hosts["a"].running.bootstrap_servers) as admin:
        yield admin


def test_brokers_of_all_hosts_are_one_cluster(hosts, admin, run):
    assert (hosts["a"].broker_ids, hosts["b"].broker_ids) == ([1, 2], [3, 4])
    assert live(admin) == {1, 2, 3, 4}
    assert {host.name for host in admin.describe_cluster().hosts} == {"a", "b"}
    assert {line.address for line in admin.describe_tree().children} == {"a", "b"}
    names = [process.name for process in admin.describe_processes()]
    assert sorted(names) == ["a", "b", "broker-1", "broker-2", "broker-3", "broker-4", "metadata"]

    described = run(["cluster", "describe", "--json", "-b", hosts["b"].running.bootstrap_servers[0]])
    processes = {process["name"]: process for process in orjson.loads(described.stdout)["processes"]}
    assert f"tcp://127.0.0.1:{hosts['b'].links['metadata'].port}" not in processes["metadata"]["endpoints"]
    assert hosts["a"].running.ready()["join"] in processes["metadata"]["endpoints"]


def test_records_go_to_brokers_of_either_host_and_through_the_advertised_addresses(hosts, admin):
    topic = placed(admin, "t", [1], [3])
    before = [hosts[name].links["clients-0"].passed[0] for name in "ab"]

    with Producer(bootstrap_servers=hosts["b"].running.bootstrap_servers) as producer:
        for partition in (0, 1):
            producer.send(topic, b"x" * 1_000, partition=partition).get(timeout=DEADLINE_S)

    assert len(read_all(hosts["a"].running.bootstrap_servers, topic, 2)) == 2
    for name, passed in zip("ab", before, strict=True):
        assert hosts[name].links["clients-0"].passed[0] > passed + 1_000


def test_the_leaders_of_a_new_topic_are_spread_over_hosts(hosts, admin):
    admin.create_topics({"spread": {"num_partitions": 8}})

    (topic,) = admin.describe_topics(["spread"])

    assert sorted(partition.leader for partition in topic.partitions) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_replicas_go_to_different_hosts_and_leaders_everywhere():
    with joined_hosts({"a": 1, "b": 2, "c": 1}) as hosts:
        host_of = {number: name for name, host in hosts.items() for number in host.broker_ids}
        with AdminClient(bootstrap_servers=hosts["c"].running.bootstrap_servers) as admin:
            admin.create_topics({"spread": {"num_partitions": 8, "replication_factor": 3}})
            (topic,) = admin.describe_topics(["spread"])

    for partition in topic.partitions:
        assert {host_of[number] for number in partition.replicas} == {"a", "b", "c"}
    assert sorted(partition.replicas[0] for partition in topic.partitions) == [1, 1, 2, 2, 3, 3, 4, 4]
