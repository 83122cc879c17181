"""Requests over real sockets, on each of the three loops."""

import os
import resource
import stat

import msgspec
import pytest

from callboard.errors import (
    CallboardTimeoutError,
    ConnectionFailedError,
    ConnectionLostError,
    ErrorCode,
    ForkedClientError,
    IllegalStateError,
    MessageSizeTooLargeError,
)
from callboard.transport import messages
from callboard.transport.endpoint import ZmqTransport
from callboard.transport.loop import SystemClock
from callboard.transport.seam import Stage

from .rig import BROKER, LOOPS, QUICK, produce, rig


@pytest.mark.parametrize("kind", LOOPS)
def test_a_request_is_answered_on_every_loop(kind):
    with rig(kind) as it:
        server, seen = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])

        reply, payload = it.ask(connection, produce(), [b"prefix", b"records" * 100])

        assert (reply.detail, payload) == ("ProduceRequest", [b"prefix", b"records" * 100])
        assert seen[0].payload == payload
        assert all(type(frame) is bytes for frame in seen[0].payload)  # the checksum takes nothing else
        assert connection.hello.name == "broker-1"
        assert connection.hello.incarnation == "i1"


def test_tcp_and_ipc_are_served_by_one_server(tmp_path):
    with rig() as it:
        server, _ = it.serve_echo(["tcp://127.0.0.1:0", f"ipc://{tmp_path}/s"])

        for endpoint in server.endpoints:
            connection, _ = it.ready(endpoint)
            assert it.ask(connection, messages.MetadataRequest())[0].detail == "MetadataRequest"
        assert [endpoint.partition(":")[0] for endpoint in server.endpoints] == ["tcp", "ipc"]


def test_a_server_tells_the_real_port():
    with rig() as it:
        server, _ = it.serve_echo(["127.0.0.1:0", "localhost:0"])

        assert all(endpoint.startswith("tcp://127.0.0.1:") for endpoint in server.endpoints)
        assert all(int(endpoint.rpartition(":")[2]) > 0 for endpoint in server.endpoints)


@pytest.mark.parametrize("size", [0, 1, 1_000, 200_000, 3_000_000])
def test_payloads_of_every_size_come_back_unchanged(size):
    with rig() as it:
        server, _ = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        frames = [os.urandom(21), os.urandom(size)]

        assert it.ask(connection, produce(), frames)[1] == frames


def test_replies_come_in_any_order_and_find_their_callers():
    with rig() as it:
        held = []
        server = it.transport.serve(["127.0.0.1:0"], messages.ClientRequest, held.extend, identity=BROKER)
        connection, _ = it.ready(server.endpoints[0])
        answers = {}
        for number in range(10):
            connection.request(
                messages.MetadataRequest(topics=[str(number)]), lambda reply, _, n=number: answers.update({n: reply})
            )
        it.until(lambda: len(held) == 10)

        for inbound in reversed(held):
            server.reply(
                inbound.peer, messages.MetadataReply(id=inbound.message.id, cluster_id=inbound.message.topics[0])
            )

        it.until(lambda: len(answers) == 10)
        assert all(answers[number].cluster_id == str(number) for number in range(10))


def test_a_request_made_before_the_connection_is_ready_waits_for_it():
    with rig() as it:
        server, _ = it.serve_echo()
        connection, _ = it.connect(server.endpoints[0])
        assert not connection.is_ready

        assert it.ask(connection, messages.MetadataRequest())[0].detail == "MetadataRequest"


def test_a_request_without_a_reply_arrives_and_gets_none():
    with rig() as it:
        server, seen = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])

        assert connection.send(produce(acks=0), [b"a", b"b"])

        it.until(lambda: seen)
        assert seen[0].message.id == 0
        assert server.counters["replies"] == 1  # to the hello
        assert connection.counters["stray_replies"] == 0


def test_what_was_sent_without_a_reply_still_goes_out_at_close():
    with rig() as it:
        server, seen = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])

        for _ in range(50):
            assert connection.send(produce(acks=0), [b"a", b"b" * 10_000])
        connection.close()

        it.until(lambda: len(seen) == 50)


def test_the_server_knows_who_is_connected_and_forgets_who_left():
    with rig() as it:
        server, _ = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0], client_id="billing")
        it.ask(connection, produce(), [b"a", b"b" * 1_000])

        peer = server.peers()[0]
        assert (peer.client_id, peer.requests, peer.replies) == ("billing", 2, 2)
        assert peer.software.startswith("callboard/")
        assert peer.address == "127.0.0.1"
        assert peer.bytes_in > 1_000
        assert peer.bytes_out > 1_000

        connection.close()
        it.until(lambda: not server.peers())
        assert server.counters["connections"] == 0


def test_a_refused_connection_says_where_and_what_to_try(tmp_path):
    with rig() as it:
        server, _ = it.serve_echo()
        endpoint = server.endpoints[0]
        server.close()

        for where in (endpoint, f"ipc://{tmp_path}/nobody"):
            _, states = it.connect(where)
            it.until(lambda states=states: len(states) >= 2)
            assert states[0].stage is Stage.CONNECT
            assert states[0].endpoint == where
            assert "callboard up" in str(states[0])
            assert [state.attempt for state in states[:2]] == [1, 2]


def test_a_name_that_cannot_be_resolved_is_told_at_that_stage():
    with rig() as it:
        _, states = it.connect("no-such-host.invalid:9192")

        it.until(lambda: states)

        assert states[0].stage is Stage.RESOLVE
        assert "no-such-host.invalid" in states[0].detail


def test_a_connection_comes_back_when_the_server_does():
    with rig() as it:
        server, _ = it.serve_echo()
        endpoint = server.endpoints[0]
        connection, states = it.ready(endpoint)

        server.close()
        it.until(lambda: states[-1].stage is not Stage.READY)
        assert [state.stage for state in states[:2]] == [Stage.READY, Stage.LOST]
        assert connection.hello is None
        it.serve_echo([endpoint])

        assert it.ask(connection, messages.MetadataRequest())[0].detail == "MetadataRequest"
        assert states[-1].is_ready


def test_a_port_is_free_again_when_close_returns():
    with rig() as it:
        server, _ = it.serve_echo()
        endpoint = server.endpoints[0]
        for _ in range(20):
            server.close()
            server, _ = it.serve_echo([endpoint])
            assert server.endpoints == (endpoint,)


def test_requests_under_way_fail_when_the_connection_is_lost():
    with rig() as it:
        server = it.transport.serve(["127.0.0.1:0"], messages.ClientRequest, lambda _: server.close(), identity=BROKER)
        connection, _ = it.ready(server.endpoints[0])

        error, _ = it.ask(connection, messages.MetadataRequest())

        assert isinstance(error, ConnectionLostError)
        assert error.outcome_unknown


def test_a_request_without_an_answer_times_out_and_a_late_answer_is_a_stray():
    with rig() as it:
        held = []
        server = it.transport.serve(["127.0.0.1:0"], messages.ClientRequest, held.extend, identity=BROKER)
        connection, _ = it.ready(server.endpoints[0])

        error, _ = it.ask(connection, messages.MetadataRequest(), timeout_ms=30)
        assert isinstance(error, CallboardTimeoutError)
        assert connection.in_flight == 0

        server.reply(held[0].peer, messages.MetadataReply(id=held[0].message.id))
        it.until(lambda: connection.counters["stray_replies"] == 1)


def test_a_request_that_was_never_sent_fails_with_the_reason():
    with rig() as it:
        server, _ = it.serve_echo()
        server.close()
        connection, _ = it.connect(server.endpoints[0])

        error, _ = it.ask(connection, messages.MetadataRequest(), timeout_ms=40)

        assert isinstance(error, ConnectionFailedError)
        assert not error.outcome_unknown
        assert server.endpoints[0] in str(error)
        assert "connect" in str(error)


def test_a_request_too_large_for_the_server_is_not_sent():
    with rig() as it:
        server, seen = it.serve_echo(request_bytes=65_536)
        connection, _ = it.ready(server.endpoints[0])

        error, _ = it.ask(connection, produce(), [b"a", b"b" * 70_000])

        assert isinstance(error, MessageSizeTooLargeError)
        assert connection.is_ready
        assert it.ask(connection, produce(), [b"a", b"b" * 60_000])[0].detail == "ProduceRequest"
        assert len(seen) == 1


def test_more_connections_than_the_limit_are_refused():
    with rig() as it:
        server, _ = it.serve_echo(connections=2)
        first, _ = it.ready(server.endpoints[0])
        it.ready(server.endpoints[0])

        _, states = it.connect(server.endpoints[0])
        it.until(lambda: states)

        assert states[0].stage in (Stage.HANDSHAKE, Stage.HELLO)
        assert "connections" in str(states[0])
        first.close()
        it.until(lambda: states[-1].is_ready)  # there is room again


def test_nobody_comes_in_without_the_admission_handler():
    with rig() as it:
        server, _ = it.serve_echo()
        it.transport._routers._admission.close()

        _, states = it.connect(server.endpoints[0])
        it.until(lambda: states)

        assert not states[0].is_ready


def test_an_idle_connection_wakes_nobody():
    with rig(heartbeat_ivl=10, heartbeat_timeout=1_000) as it:
        server, _ = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        it.ask(connection, messages.MetadataRequest(), timeout_ms=60_000)
        it.loop.call_later(0.1, it.loop.stop)
        it.loop.run()  # whatever is left over
        before = it.loop.wakeups

        it.loop.call_later(0.3, it.loop.stop)
        it.loop.run()

        assert it.loop.wakeups - before <= 1  # the one that ends the run


def test_close_is_quick_whatever_is_under_way(tmp_path):
    it_closed = []
    with rig() as it:
        held = []
        server = it.transport.serve([f"ipc://{tmp_path}/s"], messages.ClientRequest, held.extend, identity=BROKER)
        connection, _ = it.ready(server.endpoints[0])
        it.connect("127.0.0.1:1")
        for _ in range(100):
            connection.request(produce(), lambda *answer: it_closed.append(answer), [b"a", b"b" * 100_000])
        before = it.clock.monotonic_ms()

        it.transport.close()
        it.transport.close()

        assert it.clock.monotonic_ms() - before < 2_000
        it.loop.call_soon(it.loop.stop)
        it.loop.run()
    assert len(it_closed) == 100
    assert os.listdir(tmp_path) == []


def test_nothing_can_be_made_on_a_closed_transport():
    with rig() as it:
        it.transport.close()

        with pytest.raises(IllegalStateError):
            it.connect("127.0.0.1:1")
        with pytest.raises(IllegalStateError):
            it.serve_echo()


def test_a_forked_child_is_told_so_and_leaves_the_parent_alone():
    with rig() as it:
        server, _ = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])

        child = os.fork()
        if child == 0:  # pragma: no cover
            status = 1
            try:
                assert it.transport.is_forked
                with pytest.raises(ForkedClientError):
                    it.transport.connect("127.0.0.1:1", client_id="", on_state=print)
                it.transport.close()
                status = 0
            finally:
                os._exit(status)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert it.ask(connection, messages.MetadataRequest())[0].detail == "MetadataRequest"


def test_a_large_frame_of_a_reply_is_a_view_that_reads_as_bytes_and_outlives_the_connection():
    with rig() as it:
        server, _ = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        large = bytes(range(256)) * 4_096

        _, (small, view) = it.ask(connection, produce(), [b"small", large])

    assert (type(small), type(view)) == (bytes, memoryview)
    assert (len(view), view, bytes(view[300:600])) == (len(large), large, large[300:600])


def test_an_expired_request_does_not_reach_the_handler():
    with rig() as it:
        server, seen = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        connection._clock_offset_ms = -60_000  # so the deadline it stamps lies in the past

        reply, _ = it.ask(connection, messages.MetadataRequest())

        assert reply.error == ErrorCode.REQUEST_TIMED_OUT
        assert not seen
        assert server.counters["expired"] == 1


def test_the_clock_offset_between_processes_of_one_machine_is_small():
    with rig() as it:
        server, _ = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])

        assert abs(connection.clock_offset_ms) < 1_000


def test_a_slow_reader_costs_bounded_memory_and_nobody_elses_time():
    # Its side takes two messages as well, else all would pass while the server answers; and nobody is taken for
    # dead because he does not read, however long this takes.
    with rig(router_sndhwm=2, dealer_rcvhwm=2, heartbeat_ivl=0) as it:
        server, _ = it.serve_echo(reply_bytes_waiting_per_peer=20_000_000)
        other = ZmqTransport(it.loop, SystemClock(), options=it.transport._options)
        slow_states, slow = [], None
        try:
            slow = other.connect(server.endpoints[0], client_id="slow", on_state=slow_states.append, options=QUICK)
            it.until(lambda: slow_states)
            slow._wire._pump.close()  # it reads nothing any more
            big = b"x" * 1_000_000
            for _ in range(80):
                slow.request(produce(), lambda *_: None, [b"p", big])
            quick, _ = it.ready(server.endpoints[0], client_id="quick")
            it.until(lambda: server.counters["dropped_replies"] > 0)

            assert it.ask(quick, messages.MetadataRequest())[0].detail == "MetadataRequest"

            peer = next(peer for peer in server.peers() if peer.client_id == "slow")
            assert 0 < peer.waiting_bytes <= 20_000_000 + 1_000_200
            assert peer.dropped > 0
        finally:
            other.close()
        it.until(lambda: len(server.peers()) == 1)


def test_a_peer_that_reads_nothing_for_longer_than_heartbeats_allow_is_let_go():
    with rig(router_sndhwm=2, dealer_rcvhwm=2, heartbeat_ivl=20, heartbeat_timeout=60) as it:
        server, _ = it.serve_echo()
        slow, states = it.ready(server.endpoints[0])
        slow._wire._pump.close()
        ends = []
        for _ in range(80):
            slow.request(produce(), lambda *answer: ends.append(answer), [b"p", b"x" * 1_000_000])
        it.until(lambda: states[-1].stage is not Stage.READY)

        it.until(lambda: len(ends) == 80)
        it.until(lambda: all(peer.waiting_bytes == 0 for peer in server.peers()))
        assert any(isinstance(reply, ConnectionLostError) for reply, _ in ends)  # but for those that had come


@pytest.mark.parametrize("replies", [1, 2, 57, 58, 59, 60])  # each alone may be lucky
def test_what_was_answered_before_a_server_closes_still_arrives(replies):
    """So the actor that serves can be killed, and whoever asked for it is told."""
    with rig() as it:
        other = ZmqTransport(it.loop, SystemClock())
        held, ends, states = [], [], []
        server = it.transport.serve(["127.0.0.1:0"], messages.ClientRequest, held.extend, identity=BROKER)
        try:
            connection = other.connect(server.endpoints[0], client_id="", on_state=states.append, options=QUICK)
            it.until(lambda: states)
            for _ in range(replies):
                connection.request(produce(), lambda *answer: ends.append(answer), [b"p", b"x"])
            it.until(lambda: len(held) == replies)

            for inbound in held:
                server.reply(inbound.peer, messages.ProduceReply(id=inbound.message.id), [b"x" * 2_000])
            server.close()

            it.until(lambda: len(ends) == replies)
            assert [type(reply).__name__ for reply, _ in ends] == ["ProduceReply"] * replies
        finally:
            other.close()


def test_a_peer_that_leaves_a_server_just_closed_holds_up_no_other_connection():
    with rig(router_sndhwm=2, dealer_rcvhwm=2, heartbeat_ivl=0) as it:
        closed, _ = it.serve_echo()
        kept, _ = it.serve_echo()
        quick, _ = it.ready(kept.endpoints[0], client_id="quick")
        other = ZmqTransport(it.loop, SystemClock(), options=it.transport._options)
        states = []
        try:
            slow = other.connect(closed.endpoints[0], client_id="slow", on_state=states.append, options=QUICK)
            it.until(lambda: states)
            slow._wire._pump.close()  # it reads nothing: its connection lingers when the server is closed
            for _ in range(40):
                slow.request(produce(), lambda *_: None, [b"p", b"x" * 1_000_000])
            it.until(lambda: closed.peers()[0].waiting_bytes > 0)
            closed.close()
        finally:
            other.close()

        assert it.ask(quick, messages.MetadataRequest())[0].detail == "MetadataRequest"


def test_replies_that_had_to_wait_come_in_order_when_the_peer_reads_again():
    with rig(router_sndhwm=2, dealer_rcvhwm=2) as it:
        server, _ = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        pump = connection._wire._pump
        it.loop.remove_reader(pump._fd)
        numbers = []
        for number in range(60):
            connection.request(
                produce(), lambda _, payload: numbers.append(int(payload[0])), [b"%d" % number, b"x" * 500_000]
            )
        it.until(lambda: server.peers()[0].waiting_bytes > 0)

        it.loop.add_reader(pump._fd, pump._turn)
        pump.touched()

        it.until(lambda: len(numbers) == 60)
        assert numbers == list(range(60))


@pytest.mark.parametrize("kind", LOOPS)
def test_no_signal_is_lost_when_sends_and_arrivals_cross(kind):
    """ZeroMQ's descriptor is edge-triggered: a send can swallow the signal of a message that has just come.

    Without looking at EVENTS again after sends made outside a turn, dozens of these exchanges hang.
    """
    exchanges, in_flight = 3_000, 8
    with rig(kind) as it:

        def on_requests(batch):
            for inbound in batch:  # replies leave outside the turn that has read the request
                it.loop.call_soon(server.reply, inbound.peer, messages.MetadataReply(id=inbound.message.id))

        server = it.transport.serve(["127.0.0.1:0"], messages.ClientRequest, on_requests, identity=BROKER)
        connection, _ = it.ready(server.endpoints[0])
        done = []

        def again(reply, _):
            assert isinstance(reply, messages.MetadataReply)
            done.append(reply.id)
            if len(done) + connection.in_flight < exchanges:
                it.loop.call_soon(connection.request, messages.MetadataRequest(), again)

        for _ in range(in_flight):
            connection.request(messages.MetadataRequest(), again)

        it.until(lambda: len(done) >= exchanges, timeout_s=20)


def test_an_exception_in_the_handler_does_not_stop_the_server():
    failures = []
    with rig() as it:
        it.loop._on_failure = failures.append
        calls = []

        def on_requests(batch):
            calls.extend(batch)
            if len(calls) == 1:
                raise ValueError("a bug")
            server.reply(batch[0].peer, messages.MetadataReply(id=batch[0].message.id))

        server = it.transport.serve(["127.0.0.1:0"], messages.ClientRequest, on_requests, identity=BROKER)
        connection, _ = it.ready(server.endpoints[0])
        connection.request(messages.MetadataRequest(), lambda *_: None)
        it.until(lambda: calls)

        assert isinstance(it.ask(connection, messages.MetadataRequest())[0], messages.MetadataReply)
        assert [str(failure) for failure in failures] == ["a bug"]


def test_socket_files_are_private_and_gone_after_close(tmp_path):
    with rig() as it:
        server, _ = it.serve_echo([f"ipc://{tmp_path}/s"])
        assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600

        server.close()

        assert os.listdir(tmp_path) == []


def test_without_descriptors_new_connections_wait_and_old_ones_go_on():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with rig() as it:
        server, _ = it.serve_echo()
        old, _ = it.ready(server.endpoints[0])
        taken = all_descriptors(hard)
        try:
            _, states = it.connect(server.endpoints[0])
            it.until(lambda: states)
            assert states[0].stage is Stage.CONNECT
            assert "ulimit" in str(states[0])
            assert it.ask(old, messages.MetadataRequest())[0].detail == "MetadataRequest"
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        it.until(lambda: states[-1].is_ready)


def all_descriptors(hard):
    """Take every descriptor that this process may still open; the limit is on numbers, and there are holes below it."""
    highest = max(map(int, os.listdir("/dev/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken = []
    while True:
        try:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return taken


def test_inbound_is_frozen():
    with rig() as it:
        server, seen = it.serve_echo()
        connection, _ = it.ready(server.endpoints[0])
        it.ask(connection, messages.MetadataRequest())

        with pytest.raises(AttributeError):
            seen[0].size = 1
        assert msgspec.structs.asdict(seen[0])["payload"] == []
