"""Figures as people read them."""

import pytest

from callboard.cli import human


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (12_345, "12 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_sizes(count, text):
    assert human.size(count) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (3_400, "3.4 s"),
        (306_000, "5 min 6 s"),
        (7_260_000, "2 h 1 min"),
        (183_600_000, "2 d 3 h"),
    ],
)
def test_durations(milliseconds, text):
    assert human.duration(milliseconds) == text


def test_counts_and_rates():
    assert [human.count(1, "record"), human.count(27_004, "record")] == ["1 record", "27,004 records"]
    assert [human.rate(100, 2.0), human.rate(5, 0.0)] == ["50/s", "–"]


def test_what_a_terminal_would_obey_is_shown_instead():
    assert human.visible("a\x1b[2Jb\nc\x9bd é漢 e") == "a\\x1b[2Jb\\nc\\x9bd é漢 e"
