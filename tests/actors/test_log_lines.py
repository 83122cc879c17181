"""How an event stands in the log."""

from callboard.actors.log import code_text, line_of


def test_an_error_code_stands_in_the_log_by_its_name():
    assert [code_text(code) for code in (0, 77, 9_999)] == ["NONE", "STALE_BROKER_EPOCH", "9999"]


def test_a_log_line_is_one_line_whatever_its_values_are():
    line = line_of("log.opened", {"path": 'a "b"\nc', "isr": [2, 3], "none": "", "error": OSError("no")})

    assert line == 'log.opened path="a \\"b\\"\\nc" isr=2,3 none="" error="OSError: no"'
