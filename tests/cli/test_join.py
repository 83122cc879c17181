"""``callboard up --join``: what is wrong is one line and a status of its own, and nothing is left behind."""

import contextlib
import threading

import pytest
import zmq

from callboard.testing.clusters import cluster
from callboard.transport import codec, messages

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def first():
    """A host that others may join."""
    with cluster(brokers=1, options=("--metadata-listen", "tcp://127.0.0.1:0")) as running:
        yield running


@pytest.fixture
def join(run, tmp_path):
    """Try to join; with the status and the last line said."""

    def tried(*options, data_dir=None, endpoint):
        data_dir = str(data_dir or tmp_path / "data")
        ended = run(["up", "--brokers", "1", "--port", "0", "--data-dir", data_dir, "--join", endpoint, *options])
        assert "Traceback" not in ended.stderr
        assert ended.stderr.count("\n") == 1
        return ended.returncode, ended.stderr

    return tried


@contextlib.contextmanager
def answering(make_reply):
    """A server that answers every request with what ``make_reply(id)`` gives."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    stopping = threading.Event()

    def serve():
        while not stopping.is_set():
            if socket.poll(50):
                peer, header, *_ = socket.recv_multipart()
                socket.send_multipart([peer, codec.encode(make_reply(codec.request_id(header)))])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        stopping.set()
        thread.join()
        context.destroy()


def test_the_cluster_says_where_to_join_and_a_host_does(first, run, tmp_path):
    ready = first.ready()
    assert ready["join"].startswith("tcp://127.0.0.1:")
    assert ready["host"] == "host"

    with cluster(brokers=2, directory=tmp_path, options=("--join", ready["join"], "--host-name", "b")) as joined:
        assert [broker["id"] for broker in joined.ready()["brokers"]] == [2, 3]
        assert joined.ready()["cluster_id"] == ready["cluster_id"]
        assert joined.ready()["metadata"] == {"pid": 0}
        assert "b/broker-3" in run(["tree", "--json", "-b", first.bootstrap_servers[0]]).stdout

    ended = run(["up", "--port", "0", "--data-dir", str(tmp_path / "data")])
    assert ended.returncode == 5
    assert f"start it with --join {ready['join']}" in ended.stderr


def test_a_data_directory_of_another_cluster_is_refused(first, join, tmp_path):
    with (
        cluster(brokers=1, options=("--metadata-listen", "tcp://127.0.0.1:0")) as other,
        cluster(brokers=1, directory=tmp_path, options=("--join", other.ready()["join"], "--host-name", "x")),
    ):
        pass

    status, said = join(endpoint=first.ready()["join"], data_dir=tmp_path / "data")

    assert status == 4
    assert "INCONSISTENT_CLUSTER_ID" in said
    assert first.ready()["cluster_id"] in said


@pytest.mark.parametrize(
    "reply",
    [
        lambda number: messages.HelloReply(id=number, role="metadata", version_min=7, version_max=9),
        lambda number: messages.ErrorReply(id=number, error=35, detail="versions 7 to 9 are spoken here"),
    ],
)
def test_a_cluster_that_is_too_far_apart_is_refused_as_such(join, reply):
    with answering(reply) as endpoint:
        status, said = join(endpoint=endpoint)

    assert status == 4
    assert "UNSUPPORTED_VERSION" in said
    assert "7 to 9" in said
    assert endpoint in said


def test_ids_and_names_of_others_are_refused(first, join):
    assert (taken := join("--host-name", "y", "--first-broker-id", "1", endpoint=first.ready()["join"]))[0] == 4
    assert "DUPLICATE_BROKER_REGISTRATION" in taken[1]
    assert "--first-broker-id" in taken[1]

    assert (known := join("--host-name", "host", endpoint=first.ready()["join"]))[0] == 4
    assert "--host-name" in known[1]
    assert "live broker" not in known[1]


def test_something_else_that_listens_there_is_named(first, join):
    status, said = join(endpoint=first.bootstrap_servers[0])

    assert status == 5
    assert "is broker-1, not a metadata process" in said


def test_where_nobody_answers_endpoint_and_stage_are_told(join):
    status, said = join(endpoint="tcp://127.0.0.1:1")

    assert status == 3
    assert "tcp://127.0.0.1:1: connect: " in said


def test_the_first_hosts_directory_does_not_join(first, join, run, tmp_path):
    with cluster(brokers=1, directory=tmp_path):
        pass

    status, said = join(endpoint=first.ready()["join"], data_dir=tmp_path / "data")

    assert status == 5
    assert "start it without --join" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0", "--insecure"], "--advertise"),
        (["--advertise", "0.0.0.0"], "that others connect to"),
        (["--advertise", "a:b"], "advertise 'a:b'"),
        (["--advertise", "h:65535", "--brokers", "2"], "above 65535"),
        (["--metadata-listen", "tcp://0.0.0.0:0"], "--insecure"),
        (["--metadata-listen", "ipc:///tmp/x"], "use tcp://HOST:PORT"),
        (["--join", "tcp://somewhere"], "use tcp://HOST:PORT"),
        (["--host-name", "broker-1"], "host_name 'broker-1'"),
        (["--peer-port", "65535", "--brokers", "2"], "peer_port"),
        (["--first-broker-id", "5"], "--join"),
    ],
)
def test_settings_that_cannot_be_are_told_before_anything_is_started(run, tmp_path, options, said):
    ended = run(["up", "--brokers", "1", "--port", "0", "--data-dir", str(tmp_path / "data"), *options])

    assert ended.returncode == 5
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
