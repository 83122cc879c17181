"""Two hosts in network namespaces of their own: the cable of one is pulled and plugged in again."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from callboard.testing.clusters import RunningCluster
from callboard.testing.namespaces import network, why_not
from callboard.transport.addresses import MACHINE_VARIABLE

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

DEADLINE_S = 60.0
METADATA_PORT, PORT = 9190, 9192  # of a network that nobody else is in


@pytest.fixture(scope="module")
def machines():
    if reason := why_not():
        pytest.skip(f"network namespaces are not allowed here: {reason}")
    with network(["a", "b", "user"]) as machines:
        yield machines


@pytest.fixture(scope="module")
def directory():
    path = Path(tempfile.mkdtemp(prefix="ns-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def hosts(machines, directory):
    """One pair for all tests: each of them ends with the cable plugged in, or has failed."""
    joined = {
        "a": ("--metadata-listen", f"tcp://{machines['a'].address}:{METADATA_PORT}"),
        "b": ("--join", f"tcp://{machines['a'].address}:{METADATA_PORT}"),
    }
    running = {}
    for name, options in joined.items():
        (directory / name).mkdir()
        where = ("--host", machines[name].address, "--insecure", "--port", str(PORT), "--host-name", name)
        running[name] = RunningCluster(
            directory / name,
            brokers=1,
            options=(*where, *options),
            environment={MACHINE_VARIABLE: name},
            prefix=machines[name].prefix,
        )
    try:
        for one in running.values():
            one.start()
        yield running
    finally:
        for one in running.values():
            machines["b"].plug_in()
            one.stop()


@pytest.fixture
def user(machines):
    """Run a command of callboard's on the third machine, by default against host a; return what it printed."""

    def run(*arguments, at="a", stdin="", check=True):
        command = [*machines["user"].prefix, sys.executable, "-m", "callboard", *arguments]
        command += ["-b", f"{machines[at].address}:{PORT}"]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    return run


def wait_for(condition, what):
    until = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < until, what
        time.sleep(0.05)
    return value


def brokers(user):
    return {broker["id"] for broker in json.loads(user("cluster", "describe", "--json"))["brokers"]}


def partitions(user, topic="t"):
    described = json.loads(user("topics", "describe", topic, "--json"))
    (found,) = described if isinstance(described, list) else [described]
    return found["partitions"]


def leaders(user, topic="t"):
    return {each["partition"]: each["leader"] for each in partitions(user, topic)}


def test_a_cable_is_pulled_and_plugged_in_again_and_nobody_has_to_do_anything(machines, hosts, user):
    user("topics", "create", "t", "--partitions", "2", "--replication-factor", "1")
    (away,) = (partition for partition, leader in leaders(user).items() if leader == 2)
    user("produce", "t", "--partition", str(away), stdin="before\n")

    machines["b"].unplug()
    wait_for(lambda: leaders(user)[away] == -1, "no leader there")
    user("produce", "t", "--partition", str(1 - away), stdin="elsewhere\n")

    machines["b"].plug_in()
    wait_for(lambda: leaders(user)[away] == 2, "its leader again")
    user("produce", "t", "--partition", str(away), stdin="after\n")

    assert brokers(user) == {1, 2}
    for at in "ab":
        read = user("consume", "t", "--from-beginning", "--max-messages", "3", "--format", "%p/%o %v", at=at)
        expected = [f"{away}/0 before", f"{away}/1 after", f"{1 - away}/0 elsewhere"]
        assert sorted(read.splitlines()) == sorted(expected)


def test_the_other_host_leads_while_the_cable_is_out(machines, hosts, user):
    user("topics", "create", "r", "--partitions", "2", "--replication-factor", "2")
    wait_for(lambda: all(sorted(each["isr"]) == [1, 2] for each in partitions(user, "r")), "all in sync")
    (moved,) = (partition for partition, leader in leaders(user, "r").items() if leader == 2)
    user("produce", "r", "--partition", str(moved), stdin="before\n")

    machines["b"].unplug()
    user("produce", "r", "--partition", str(moved), stdin="meanwhile\n")
    assert leaders(user, "r") == {0: 1, 1: 1}

    machines["b"].plug_in()
    wait_for(lambda: all(sorted(each["isr"]) == [1, 2] for each in partitions(user, "r")), "all in sync again")
    user("produce", "r", "--partition", str(moved), stdin="after\n")

    read = user("consume", "r", "--from-beginning", "--max-messages", "3", "--format", "%p/%o %v", at="b")
    assert read.splitlines() == [f"{moved}/0 before", f"{moved}/1 meanwhile", f"{moved}/2 after"]
