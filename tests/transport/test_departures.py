"""Peers that leave: what they had sent is served, and then they are forgotten; whichever is learnt first."""

import time

import zmq

from callboard.transport import codec, messages, monitor

from .rig import BROKER, produce, rig


def test_what_a_peer_sent_last_is_served_though_the_answer_to_what_it_sent_before_found_it_gone():
    with rig() as it:
        held = []
        server = it.transport.serve(["127.0.0.1:0"], messages.ClientRequest, held.extend, identity=BROKER)
        connection, _ = it.ready(server.endpoints[0])
        connection.request(messages.MetadataRequest(), lambda *_: None)
        it.until(lambda: held)

        assert connection.send(produce(acks=0), [b"a", b"b"])
        connection.close()
        for _ in range(80):  # the server's loop does not turn: it learns of the end by the reply, and has read no more
            server.reply(held[0].peer, messages.MetadataReply(id=held[0].message.id))
            if server.counters["lost_replies"]:
                break
            time.sleep(0.05)
        assert server.counters["lost_replies"] == 1

        it.until(lambda: len(held) == 2)
        assert held[1].message.acks == 0
        it.until(lambda: not server.peers())
        assert server.counters["ungreeted"] == 0


def test_a_peer_whose_end_is_known_before_its_hello_is_read_does_not_stay():
    with rig() as it:
        server, _ = it.serve_echo()
        dealer = it.transport._context.socket(zmq.DEALER)
        dealer.connect(server.endpoints[0])
        it.until(lambda: server.connections == 1)
        (descriptor,) = server._descriptors

        server._on_event(monitor.DISCONNECTED, descriptor)
        dealer.send(codec.encode(messages.Hello(id=1, client_id="brief")))

        it.until(lambda: server.counters["peers_seen"] == 1 and not server.peers())
        dealer.close(linger=0)
