"""``callboard tree`` and ``callboard kill``: what is shown of the tree, and of its changes."""

import orjson
import pytest

from callboard import errors
from callboard.cli import tree as command
from callboard.cli.treeview import Change, changes, find, is_back, walk
from callboard.transport.messages import ActorDescription, KillReply


def actor(address, *children, **fields):
    fields = {"kind": "Actor", "state": "running", "uptime_ms": 5_000, **fields}
    return ActorDescription(address=address, children=list(children), **fields)


def broker(name="host/broker-1", *, replica=None, **fields):
    replica = replica or actor(f"{name}/partitions/orders-0", kind="Replica", role="leader")
    partitions = actor(f"{name}/partitions", replica, strategy="one_for_one")
    return actor(name, partitions, actor(f"{name}/router"), kind="process", **{"pid": 11, **fields})


def host(*children):
    return actor("host", *children, state="")


class FakeAdmin:
    """Shows one tree after the other, the last one for ever; an error in their place is raised."""

    def __init__(self, *trees):
        self.trees, self.killed, self.now = list(trees), [], 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def describe_tree(self):
        self.now += 0.01
        tree = self.trees.pop(0) if len(self.trees) > 1 else self.trees[0]
        if isinstance(tree, Exception):
            raise tree
        return tree

    def kill(self, address, how, for_ms=0):
        self.killed.append((address, how))
        return KillReply(address=address)


class FakeClients:
    def __init__(self, admin):
        self.made = admin

    def admin(self, bootstrap_servers, timeout_ms):
        return self.made


@pytest.fixture
def shown(callboard, monkeypatch):
    """Run a command against a fake admin client whose clock is the command's clock."""

    def run(admin, *arguments):
        def sleep(seconds):
            admin.now += seconds

        monkeypatch.setattr(command.time, "monotonic", lambda: admin.now)
        monkeypatch.setattr(command.time, "sleep", sleep)
        return callboard(*arguments, clients=FakeClients(admin))

    return run


# -- the tree ------------------------------------------------------------------------------------------


def test_every_actor_is_one_line_below_its_supervisor(shown):
    replica = actor(
        "host/broker-1/partitions/orders-0",
        kind="Replica",
        role="leader",
        restarts=2,
        mailbox=7,
        last_failure="disk\nfull",
    )

    out = shown(FakeAdmin(host(broker(replica=replica))), "tree").out

    assert [line.lstrip("│├└─ ").split()[0] for line in out.splitlines()] == [
        "host",
        "broker-1",
        "partitions",
        "orders-0",
        "router",
    ]
    assert "orders-0  Replica leader  running  mailbox 7  up 5.0 s  restarts 2  last failure: disk full" in out
    assert "broker-1  process  running  pid 11" in out


def test_a_branch_can_be_shown_alone(shown):
    out = shown(FakeAdmin(host(broker())), "tree", "host/broker-1/partitions").out

    assert out.startswith("host/broker-1/partitions  Actor  running  one-for-one")
    assert "router" not in out


def test_an_address_that_does_not_exist_is_refused_with_the_nearest(shown):
    ended = shown(FakeAdmin(host(broker())), "tree", "host/broker-1/partitions/order-0")

    assert ended.status == 4
    assert "did you mean 'host/broker-1/partitions/orders-0'?" in ended.err


def test_a_partition_that_is_named_without_its_broker_is_refused_with_the_addresses_of_its_replicas(shown):
    ended = shown(FakeAdmin(host(broker())), "kill", "orders-0")

    assert ended.status == 4
    assert "nothing lives at 'orders-0'; did you mean 'host/broker-1/partitions/orders-0'?" in ended.err


def test_json_holds_the_whole_tree(shown):
    told = orjson.loads(shown(FakeAdmin(host(broker())), "tree", "--json").out)

    assert told["children"][0]["children"][0]["children"][0]["address"] == "host/broker-1/partitions/orders-0"
    assert told["children"][0]["restarts"] == 0


def test_text_that_looks_like_markup_is_shown_as_it_is(shown):
    tree = host(broker(replica=actor("host/broker-1/partitions/orders-0", last_failure="[red]key[/red] '[0]'")))

    assert "[red]key[/red] '[0]'" in shown(FakeAdmin(tree), "tree").out


# -- kill ----------------------------------------------------------------------------------------------


def test_killing_an_actor_shows_it_come_back(shown):
    address = "host/broker-1/partitions/orders-0"
    admin = FakeAdmin(
        host(broker()),
        host(broker(replica=actor(address, state="restarting"))),
        host(broker(replica=actor(address, restarts=1, uptime_ms=3))),
    )

    ended = shown(admin, "kill", address)

    assert ended.status == 0
    assert admin.killed == [(address, "")]
    assert [line.split(maxsplit=3)[2:] for line in ended.out.splitlines()] == [
        [address, "killed"],
        [address, "restarting"],
        [address, "running, restart 1"],
        [address, "is back"],
    ]


def test_killing_a_process_tells_of_its_branch_in_one_line(shown):
    dead = actor("host/broker-1", kind="process", state="restarting", pid=0)
    admin = FakeAdmin(host(broker()), host(dead), host(broker(pid=12, restarts=1, uptime_ms=3)))

    out = shown(admin, "kill", "host/broker-1", "--how", "kill").out

    assert "host/broker-1  3 actors below it gone" in out
    assert "host/broker-1  3 actors below it there" in out
    assert "host/broker-1  running, restart 1, pid 12" in out


def test_what_does_not_come_back_in_time_is_a_failure(shown):
    gone = host(broker(state="given up", pid=0))

    ended = shown(FakeAdmin(host(broker()), gone), "kill", "host/broker-1", "--timeout-ms", "500")

    assert ended.status == 1
    assert "host/broker-1 is not back after 500 ms" in ended.err


def test_that_nobody_answers_for_a_moment_is_no_failure(shown):
    admin = FakeAdmin(host(broker()), errors.ConnectionLostError("gone"), host(broker(pid=12, restarts=1)))

    assert shown(admin, "kill", "host/broker-1").status == 0


def test_json_tells_how_long_it_took(shown):
    admin = FakeAdmin(host(broker()), host(broker(pid=12, restarts=1)))

    told = orjson.loads(shown(admin, "kill", "host/broker-1", "--json").out)

    assert told["back_after_ms"] >= 0
    assert told["events"][0] == {"after_ms": 0, "address": "host/broker-1", "what": "killed"}


@pytest.mark.parametrize(("address", "status"), [("host/broker-9", 4), ("host", 2), ("", 4)])
def test_what_does_not_exist_or_cannot_come_back_is_not_killed(shown, address, status):
    admin = FakeAdmin(host(broker()))

    assert shown(admin, "kill", address).status == status
    assert admin.killed == []


# -- changes -------------------------------------------------------------------------------------------


def test_two_equal_trees_have_no_changes():
    assert changes(host(broker()), host(broker(uptime_ms=9_000))) == []


def test_an_actor_alone_is_named_when_it_comes_or_goes():
    one = actor("host/broker-1/partitions", actor("host/broker-1/partitions/a-0"))
    none = actor("host/broker-1/partitions")

    assert changes(one, none) == [Change("host/broker-1/partitions/a-0", "gone")]
    assert changes(none, one) == [Change("host/broker-1/partitions/a-0", "there")]


def test_addresses_are_found_at_any_depth():
    tree = host(broker())

    assert len(list(walk(tree))) == 5
    assert find(tree, "host/broker-1/router") is not None
    assert find(tree, "broker-1") is None


@pytest.mark.parametrize(
    ("after", "back"),
    [
        (actor("a", restarts=1), True),
        (actor("a", pid=8), True),
        (actor("a", uptime_ms=10), True),
        (actor("a"), False),
        (actor("a", restarts=1, state="starting"), False),
        (None, False),
    ],
)
def test_back_means_a_new_life_that_serves(after, back):
    assert is_back(actor("a", pid=7), after) == back


@pytest.mark.parametrize("how", ["kill", "term"])
@pytest.mark.parametrize("address", ["host/broker-1/partitions/orders-0", "broker-1/router"])
def test_a_signal_for_an_actor_is_refused_in_one_line_that_names_its_process(shown, address, how):
    admin = FakeAdmin(host(broker()))

    ended = shown(admin, "kill", address, "--how", how)

    assert (ended.status, admin.killed) == (2, [])
    assert (
        f"is an actor, not a process: --how {how} sends a signal to a process; it lives in host/broker-1." in ended.err
    )
    assert "--how raise, or --how exit" in ended.err


def test_a_signal_for_an_actor_of_the_host_names_no_other_process(shown):
    ended = shown(FakeAdmin(host(actor("host/desk"))), "kill", "host/desk", "--how", "kill")

    assert ended.status == 2
    assert "lives in" not in ended.err
