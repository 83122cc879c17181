"""A message that does not end is told from traffic that is only heavy, and its connection is ended."""

import threading

import pytest

from callboard.transport import codec, messages
from callboard.transport.endless import SLACK_BYTES, Endless

from .rig import rig
from .test_garbage import raw_zmtp

TOO_MUCH = 1_000 + SLACK_BYTES + 1


def test_more_than_the_largest_message_without_one_coming_out_ends_it_at_the_second_look():
    endless = Endless(1_000)

    assert not endless.must_end(7, TOO_MUCH, 0)
    assert endless.must_end(7, 2 * TOO_MUCH, 0)


def test_any_amount_that_comes_in_messages_is_sound():
    endless = Endless(1_000)

    assert not any(endless.must_end(7, number * TOO_MUCH, number) for number in range(50))


def test_what_was_received_before_the_first_look_is_not_held_against_who_has_spoken():
    endless = Endless(1_000)
    for _ in range(3):
        assert not endless.must_end(7, 100 * TOO_MUCH, 3)

    assert not endless.must_end(7, 101 * TOO_MUCH, 3)
    assert endless.must_end(7, 101 * TOO_MUCH, 3)


def test_a_message_that_comes_out_after_all_begins_the_count_anew():
    endless = Endless(1_000)
    endless.must_end(7, TOO_MUCH, 0)

    assert not endless.must_end(7, 2 * TOO_MUCH, 1)
    assert not endless.must_end(7, 2 * TOO_MUCH, 1)


def test_a_descriptor_that_is_used_again_is_another_connection():
    endless = Endless(1_000)
    endless.must_end(7, TOO_MUCH, 0)
    endless.ended(7)

    assert not endless.must_end(7, TOO_MUCH, 0)


@pytest.mark.parametrize("greets", [False, True])
def test_only_the_connection_that_sends_it_is_ended(greets):
    hello = codec.encode(messages.Hello(id=1))
    with rig() as it:
        server, _ = it.serve_echo(request_bytes=65_536)
        client, states = it.ready(server.endpoints[0])
        stop = threading.Event()
        with raw_zmtp(it, server.endpoints[0]) as stream:
            if greets:
                stream.sendall(bytes([0, len(hello)]) + hello)
                it.until(lambda: len(server.peers()) == 2)
                server.end_endless()

            def send():
                frame = b"\x03" + (60_000).to_bytes(8, "big") + bytes(60_000)
                try:
                    while not stop.is_set():
                        stream.sendall(frame)
                except OSError:
                    return

            sender = threading.Thread(target=send)
            sender.start()
            try:

                def looked():
                    server.end_endless()
                    return server.counters["shown_out"] == 1 and server.connections == 1

                it.until(looked)
                assert it.ask(client, messages.MetadataRequest())[0].detail == "MetadataRequest"
            finally:
                stop.set()
                sender.join()
        assert len(states) == 1


def test_heavy_traffic_is_left_alone():
    with rig() as it:
        server, _ = it.serve_echo(request_bytes=1 << 20)
        client, states = it.ready(server.endpoints[0])
        entry = messages.ProduceEntry(topic_id="t", partition=0, frames=2)
        answers = []
        for sent in range(20, 1_000, 20):
            for _ in range(10):
                client.request(messages.MetadataRequest(), lambda *answer: answers.append(answer))
                request = messages.ProduceRequest(entries=[entry])
                client.request(request, lambda *answer: answers.append(answer), [b"p", bytes(900_000)])

            it.until(lambda: server.end_endless() is None and len(answers) == sent)  # noqa: B023
        assert server.counters["shown_out"] == 0
        assert len(states) == 1
