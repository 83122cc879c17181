"""What is written down comes back, and becomes the history that is judged."""

from callboard.model import TopicPartition
from callboard.testing.history import Moved, Polled, Send, anomalies
from callboard.testing.recording import Recorder, history_of, read_lines

ORDERS = TopicPartition("my-orders", 3)


def a_recorder():
    recorder = Recorder()
    recorder.invoke_send(10, "p", ORDERS, 1)
    recorder.invoke_send(11, "p", ORDERS, 2)
    recorder.invoke_send(12, "p", ORDERS, 3)
    recorder.end_send(20, "p", ORDERS, 1, "ok", offset=0, epoch=4)
    recorder.fault(21, "kill broker-1")
    recorder.end_send(22, "p", ORDERS, 2, "fail", error="MessageSizeTooLargeError")
    recorder.assign(30, "c", ORDERS)
    recorder.poll(31, "c", ORDERS, [(0, 1), (1, 3)])
    return recorder


def test_events_become_a_history_in_which_a_send_without_an_end_is_unknown():
    history = a_recorder().history()

    assert history.sends == [
        Send("p", ORDERS, 1, "ok", 0, 10, 20, 4),
        Send("p", ORDERS, 2, "fail", -1, 11, 22),
        Send("p", ORDERS, 3, "info", -1, 12, 0),
    ]
    assert history.polls["c"] == [Moved(ORDERS), Polled(ORDERS, 0, 1, 7), Polled(ORDERS, 1, 3, 7)]
    assert anomalies(history) == []


def test_a_file_of_events_gives_the_same_history():
    recorder = a_recorder()

    assert history_of(read_lines(recorder.lines()), finals=["c"]) == recorder.history(finals=["c"])
