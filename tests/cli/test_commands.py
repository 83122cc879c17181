"""The commands against a real cluster, as a person gives them: what they print, how they end."""

import os
import re
import signal
import subprocess
import sys
import tempfile

import orjson
import pytest

from callboard import Producer

pytestmark = [pytest.mark.processes]


@pytest.fixture
def cli(run, bootstrap_servers):
    """Run ``callboard …`` against the shared cluster; status 0 is expected unless told otherwise."""

    def command(*arguments, status=0, **options):
        ended = run([*arguments, "-b", bootstrap_servers], **options)
        assert ended.returncode == status, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended

    return command


@pytest.fixture
def topic(cli, topic_name):
    cli("topics", "create", topic_name, "--partitions", "3")
    return topic_name


def fill(cli, topic, count=300, **options):
    lines = "".join(f"key-{number % 7}:value {number}\n" for number in range(count))
    return cli("produce", topic, "--key-separator", ":", stdin=lines, **options)


# -- topics --------------------------------------------------------------------------------------------


def test_the_life_of_a_topic(cli, topic_name):
    name = topic_name

    assert cli("topics", "create", name, "--partitions", "2", "-c", "segment_bytes=65536").stdout == f"created {name}\n"
    assert cli("topics", "create", name, "--if-not-exists").stdout == f"{name} is there already\n"
    assert re.search(rf"{name} +2 +3 +0 +segment_bytes=65536\n", cli("topics", "list").stdout)
    cli("topics", "alter", name, "-c", "flush=os", "--reset", "segment_bytes")
    cli("topics", "add-partitions", name, "--partitions", "5")

    (described,) = orjson.loads(cli("topics", "describe", name, "--json").stdout)
    assert [each["partition"] for each in described["partitions"]] == [0, 1, 2, 3, 4]
    assert {each["leader"] for each in described["partitions"]} <= {1, 2, 3}
    assert described["configs_changed"] == ["flush"]
    assert described["configs"]["segment_bytes"] == 268_435_456

    assert cli("topics", "delete", name).stdout == f"deleted {name}\n"
    assert cli("topics", "delete", name, "--if-exists").stdout == f"{name} is not there\n"
    assert name not in {each["name"] for each in orjson.loads(cli("topics", "list", "--json").stdout)}


def test_the_table_of_a_topic_tells_leaders_and_offsets(cli, topic):
    fill(cli, topic, 300)

    rows = [line.split() for line in cli("topics", "describe", topic).stdout.splitlines()[3:]]

    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert sum(int(row[6]) for row in rows) == 300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["topics", "create", "no spaces"], "'no spaces' is not a topic name"),
        (["topics", "create", "other", "-c", "flsh=os"], "did you mean 'flush'?"),
        (["topics", "create", "other", "-c", "flush=never"], "flush"),
        (["topics", "create", "other", "-c", "segment_bytes=many"], "segment_bytes: expected int"),
        (["topics", "create", "other", "--partitions", "0"], "INVALID_PARTITIONS"),
        (["topics", "create", "other", "--replication-factor", "9"], "INVALID_REPLICATION_FACTOR"),
        (["topics", "describe", "no-such-topic"], "there is no topic 'no-such-topic'"),
        (["topics", "delete", "no-such-topic"], "there is no topic 'no-such-topic'"),
        (["topics", "alter", "no-such-topic", "-c", "flush=os"], "no-such-topic"),
        (["topics", "add-partitions", "no-such-topic", "--partitions", "5"], "no-such-topic"),
        (["consume", "no-such-topic", "--from-beginning"], "no-such-topic"),
        (["kill", "host/broker-9"], "nothing lives at 'host/broker-9'"),
    ],
)
def test_a_refusal_is_one_line_with_status_4(callboard, bootstrap_servers, arguments, said):
    ended = callboard(*arguments, "-b", bootstrap_servers)

    assert ended.status == 4
    assert said in ended.err
    assert ended.err.splitlines()[-1].startswith("callboard: ")
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_a_topic_that_is_there_is_refused(cli, topic):
    assert "TOPIC_ALREADY_EXISTS" in cli("topics", "create", topic, status=4).stderr


def test_fewer_partitions_are_refused(cli, topic):
    assert "has 3 partitions already" in cli("topics", "add-partitions", topic, "--partitions", "2", status=4).stderr


# -- records -------------------------------------------------------------------------------------------


def test_what_is_produced_is_consumed_once_and_in_the_order_of_each_key(cli, topic):
    told = fill(cli, topic, 300, timeout=60).stderr
    assert "300 records sent, 300 acknowledged" in told

    lines = cli("consume", topic, "--from-beginning", "-n", "300", "--format", "%k:%v").stdout.splitlines()

    assert sorted(int(line.split()[1]) for line in lines) == list(range(300))
    for key in range(7):
        numbers = [int(line.split()[1]) for line in lines if line.startswith(f"key-{key}:")]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_gives_back_the_same(cli, topic, compression):
    text = "".join(f"the same text again and again {number}\n" for number in range(100))
    cli("produce", topic, "--compression", compression, "--partition", "0", stdin=text)

    assert cli("consume", topic, "--from-beginning", "-n", "100").stdout == text


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_every_acks_delivers_when_nothing_goes_wrong(cli, topic, acks):
    cli("produce", topic, "--acks", acks, stdin="a\nb\nc\n")

    assert sorted(cli("consume", topic, "--from-beginning", "-n", "3").stdout.split()) == ["a", "b", "c"]


def test_json_records_tell_where_they_are(cli, topic):
    cli("produce", topic, "--partition", "2", stdin="one\ntwo\n")

    ended = cli("consume", topic, "--partition", "2", "--offset", "1", "-n", "1", "--format", "json")

    told = orjson.loads(ended.stdout)
    assert (told["partition"], told["offset"], told["key"], told["value"]) == (2, 1, None, "two")


def test_consuming_ends_when_nothing_comes(cli, topic):
    fill(cli, topic, 10)

    ended = cli("consume", topic, "--from-beginning", "--timeout-ms", "1500")

    assert len(ended.stdout.splitlines()) == 10
    assert ended.stderr == "10 records\n"


def test_a_record_that_is_too_large_is_refused_and_nothing_else_is_lost(cli, topic):
    ended = cli("produce", topic, stdin="small\n" + "x" * 2_000_000 + "\n", status=4)

    assert "MESSAGE_SIZE_TOO_LARGE" in ended.stderr
    assert cli("consume", topic, "--from-beginning", "-n", "1").stdout == "small\n"


def test_a_reader_that_goes_away_is_no_error(bootstrap_servers, cli, topic):
    fill(cli, topic, 50)
    command = [sys.executable, "-m", "callboard", "consume", topic, "--from-beginning", "-b", bootstrap_servers]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tempfile.gettempdir()
    ) as consuming:
        assert consuming.stdout is not None
        assert consuming.stderr is not None
        assert consuming.stdout.readline().startswith(b"value ")
        consuming.stdout.close()
        told = consuming.stderr.read()

    assert consuming.returncode == 0
    assert re.fullmatch(rb"\d+ records?\n", told)


def test_ctrl_c_ends_consuming_with_130(bootstrap_servers, cli, topic):
    fill(cli, topic, 5)
    command = [sys.executable, "-m", "callboard", "consume", topic, "--from-beginning", "-b", bootstrap_servers]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tempfile.gettempdir()
    ) as consuming:
        assert consuming.stdout is not None
        assert consuming.stderr is not None
        for _ in range(5):
            consuming.stdout.readline()
        consuming.send_signal(signal.SIGINT)
        told = consuming.stderr.read()

    assert consuming.returncode == 130
    assert told == b"5 records\ncallboard: interrupted\n"


# -- looking inside ------------------------------------------------------------------------------------


def test_the_cluster_says_the_same_from_outside_as_the_ready_file(cli, shared_cluster):
    told = orjson.loads(cli("cluster", "describe", "--json").stdout)
    ready = shared_cluster.ready()

    processes = {each["name"]: each for each in told["processes"]}
    assert {each["id"]: each["pid"] for each in ready["brokers"]} == {
        number: processes[f"broker-{number}"]["pid"] for number in (1, 2, 3)
    }
    assert processes["metadata"]["pid"] == ready["metadata"]["pid"]
    assert {each["id"] for each in told["brokers"]} == {1, 2, 3}
    assert told["controller_id"] in {1, 2, 3}
    assert all(each["memory_bytes"] > 0 for each in processes.values())
    assert "broker-3   running" in cli("cluster", "describe").stdout


def test_the_tree_shows_the_actor_of_every_partition(cli, topic):
    shown = cli("tree").stdout

    for partition in range(3):
        assert re.search(rf"{topic}-{partition}  Replica leader  running", shown)
    assert orjson.loads(cli("tree", "--json").stdout)["address"] == "host"


def leader_of(tree, partition):
    """Return the address of the actor that leads a partition, somewhere in a tree."""
    if tree["address"].endswith(f"/{partition}") and tree.get("role") == "leader":
        return tree["address"]
    return next(filter(None, (leader_of(child, partition) for child in tree.get("children", []))), None)


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_a_killed_actor_comes_back_and_its_records_are_there(cli, topic, how):
    cli("produce", topic, "--partition", "0", stdin="before\n")
    address = leader_of(orjson.loads(cli("tree", "--json").stdout), f"{topic}-0")

    told = orjson.loads(cli("kill", address, "--how", how, "--json").stdout)

    assert told["events"][-1]["what"] == "is back"
    cli("produce", topic, "--partition", "0", stdin="after\n")
    assert cli("consume", topic, "--partition", "0", "--from-beginning", "-n", "2").stdout == "before\nafter\n"


# -- no cluster, and a cluster that cannot start -----------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["topics", "list"], ["tree"], ["cluster", "describe"], ["kill", "host/broker-1"]]
)
def test_a_cluster_that_cannot_be_reached_is_status_3_and_tells_endpoint_and_stage(run, arguments):
    ended = run([*arguments, "-b", "127.0.0.1:1", "--timeout-ms", "700"])

    assert ended.returncode == 3
    assert re.search(r"127\.0\.0\.1:1: connect: .*`callboard up`", ended.stderr)
    assert ended.stderr.count("\n") == 1


def test_a_name_without_address_is_told_as_such(run):
    ended = run(["topics", "list", "-b", "no-such-host.invalid:9192", "--timeout-ms", "700"])

    assert ended.returncode == 3
    assert "no-such-host.invalid:9192: resolve" in ended.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data-dir", "/proc/callboard"], "/proc/callboard"),
        (["--host", "0.0.0.0"], "--insecure"),
        (["--ready-file", "/no/such/directory/ready.json"], "there is no such directory"),
    ],
)
def test_a_cluster_that_cannot_run_is_status_5(run, tmp_path, options, said):
    ended = run(["up", "--brokers", "1", "--port", "0", "--data-dir", str(tmp_path / "data"), *options])

    assert ended.returncode == 5
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_second_up_on_the_same_directory_is_refused_and_told_the_first_ones_pid(run, shared_cluster):
    ended = run(["up", "--port", "0", "--data-dir", str(shared_cluster.data_dir)])

    assert ended.returncode == 5
    assert str(shared_cluster.pid) in ended.stderr


def test_a_port_in_use_is_told(run, tmp_path, shared_cluster):
    port = shared_cluster.bootstrap_servers[0].rpartition(":")[2]

    ended = run(["up", "--brokers", "1", "--port", port, "--data-dir", str(tmp_path / "data")])

    assert ended.returncode == 5
    assert f"127.0.0.1:{port} is in use" in ended.stderr
    assert not os.path.exists(tmp_path / "data" / "run" / "broker-1-router.sock")


def test_whoever_is_connected_is_told_by_client_id(cli, topic, bootstrap_servers):
    with Producer(bootstrap_servers=bootstrap_servers, client_id="billing") as producer:
        producer.send(topic, b"a").get(timeout=30)

        found = orjson.loads(cli("cluster", "clients", "--json").stdout)

        assert any(client["client_id"] == "billing" and client["bytes_in"] > 0 for client in found)
        assert "billing" in cli("cluster", "clients").stdout
        assert "billing" in cli("tree").stdout


def test_the_hosts_name_may_be_left_out_of_an_address(cli, topic):
    assert f"host/broker-1/partitions/{topic}-0  is back" in cli("kill", f"broker-1/partitions/{topic}-0").stdout


def test_that_nobody_answers_is_said_in_short_at_once_and_in_full_once(run):
    ended = run(["topics", "list", "-b", "127.0.0.1:1", "--timeout-ms", "3000"])

    assert ended.returncode == 3
    assert ended.stderr.count("no broker answers so far; trying on") == 1
    assert ended.stderr.count("tcp://127.0.0.1:1: connect:") == 1
