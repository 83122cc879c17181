"""What a host tells others of itself, and what its directory remembers."""

import pytest

from callboard.actors.advertising import advertised, check, for_clients, for_desk, for_peers, where_to_join
from callboard.actors.datadir import Joined, open_data_dir
from callboard.actors.processes import ProcessPlan
from callboard.actors.readyfile import ready_document
from callboard.config import ClusterConfig
from callboard.errors import ConfigurationError
from callboard.storage.files import OsFiles
from callboard.transport.addresses import machine_identity

BOUND = ("tcp://0.0.0.0:9193", "ipc:///run/broker-2.sock")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("", BOUND[0]),
        ("h", "tcp://h:9193"),
        ("10.0.0.1:7000", "tcp://10.0.0.1:7001"),
        ("tcp://h:7000", "tcp://h:7001"),
        ("::1", "tcp://[::1]:9193"),
        ("[::1]:7000", "tcp://[::1]:7001"),
    ],
)
def test_the_second_broker_tells_host_and_port_as_wanted_and_its_unix_socket_as_it_is(wanted, told):
    assert advertised(BOUND, wanted, 1) == (told, BOUND[1])


def test_the_other_doors_have_ports_of_their_own():
    config = ClusterConfig(advertise="h:7000")

    assert (for_clients(config), for_peers(config), for_desk(config)) == ("h:7000", "h", "h")
    assert for_peers(ClusterConfig(advertise="h", advertise_peers="p:1")) == "p:1"
    assert where_to_join(("ipc:///run/m.sock", "tcp://0.0.0.0:9190"), config) == "tcp://h:9190"
    assert where_to_join(("ipc:///run/m.sock",), config) == ""


def test_every_address_is_no_address():
    with pytest.raises(ConfigurationError, match="--advertise"):
        check(ClusterConfig(host="0.0.0.0", insecure=True))
    check(ClusterConfig(host="0.0.0.0", insecure=True, advertise="h"))


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::"])
def test_what_others_could_reach_unencrypted_is_refused_before_anything_is_started(host):
    with pytest.raises(ConfigurationError, match=f"host {host} .* nothing is encrypted: .*--insecure"):
        check(ClusterConfig(host=host))

    check(ClusterConfig(host=host, insecure=True, advertise="h"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "a-name"])
def test_a_loopback_address_is_not_refused_and_a_name_is_not_looked_up(host):
    check(ClusterConfig(host=host))


def test_the_ready_file_tells_what_is_advertised():
    plans = [
        ProcessPlan("metadata", None, pid=1, endpoints=("ipc:///run/m.sock", "tcp://0.0.0.0:9190"), is_ready=True),
        ProcessPlan("broker-7", None, broker_id=7, number=1, pid=2, endpoints=BOUND, is_ready=True),
    ]
    config = ClusterConfig(advertise="h:80", host_name="b")
    document = ready_document(pid=9, cluster_id="c", data_dir="/d", plans=plans, config=config)

    assert document["bootstrap_servers"] == ["h:81"]
    assert document["brokers"][0]["endpoints"] == ["tcp://h:81", BOUND[1]]
    assert (document["host"], document["join"]) == ("b", "tcp://h:9190")


def test_two_that_look_like_one_machine_are_told_apart_by_the_variable(monkeypatch):
    here = machine_identity()
    monkeypatch.setenv("CALLBOARD_MACHINE", "b")

    assert machine_identity() == machine_identity() != here


# -- the directory of a host that joins -----------------------------------------------------------------------


def opened(path, *, joins=True):
    return open_data_dir(OsFiles(), str(path), brokers=1, new_id="new", now_ms=1, joins=joins)


def test_a_host_that_joins_has_no_cluster_before_it_is_told_one(tmp_path):
    data = opened(tmp_path)
    assert data.identity.cluster_id == ""
    data.remember(Joined(home="h", host_name="b", join="tcp://x:1"))
    data.close()

    data = opened(tmp_path)  # it had asked, and was killed: it asks again as the same
    assert data.joined == Joined(home="h", host_name="b", join="tcp://x:1")
    data.remember(Joined(home="h", host_name="b", join="tcp://x:1", broker_ids=(4,)), "c")
    data.close()

    data = opened(tmp_path)
    assert (data.identity.cluster_id, data.joined.broker_ids) == ("c", (4,))
    data.close()
    assert not (tmp_path / "metadata").exists()


def test_a_directory_stays_what_it_was(tmp_path):
    opened(tmp_path / "first", joins=False).close()
    with pytest.raises(ConfigurationError, match="without --join"):
        opened(tmp_path / "first")

    data = opened(tmp_path / "second")
    data.remember(Joined(home="h", host_name="b", join="tcp://x:1", broker_ids=(4,)), "c")
    data.close()
    with pytest.raises(ConfigurationError, match="start it with --join tcp://x:1"):
        opened(tmp_path / "second", joins=False)


def test_damaged_notes_are_told(tmp_path):
    (tmp_path / "joined.json").write_text("{")

    with pytest.raises(ConfigurationError, match=r"joined\.json is damaged"):
        opened(tmp_path)
