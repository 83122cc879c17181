"""What ``consume`` prints of a record."""

import orjson
import pytest

from callboard import ConsumerRecord
from callboard.cli.records import MARKS, formatter


def record(key=b"k", value=b"v", headers=()):
    return ConsumerRecord(
        topic="orders",
        partition=3,
        leader_epoch=2,
        offset=41,
        timestamp=1_700_000_000_000,
        timestamp_type=0,
        key=key,
        value=value,
        headers=list(headers),
    )


def test_the_value_alone_is_the_default_format():
    assert formatter("value")(record(value=b"hello")) == b"hello\n"


def test_every_mark_has_its_field():
    written = formatter("%t %p %o %e %k %v %T %h %%")(record(headers=[("a", b"1"), ("b", None)]))

    assert written == b"orders 3 41 2 k v 1700000000000 a=1,b= %\n"


def test_escapes_and_other_text_stand_as_they_are():
    assert formatter(r"ü%k\t%v\n\\")(record()) == "ük\tv\n\\\n".encode()


def test_bytes_that_are_no_text_are_written_unchanged():
    assert formatter("%k=%v")(record(key=b"\xff\x00", value=b"\x80")) == b"\xff\x00=\x80\n"


def test_null_is_nothing_in_text_and_null_in_json():
    assert formatter("[%k|%v]")(record(key=None, value=None)) == b"[|]\n"

    told = orjson.loads(formatter("json")(record(key=None, value=b"")))
    assert (told["key"], told["value"]) == (None, "")


def test_json_tells_everything_and_spells_bytes_that_are_no_text_in_base64():
    told = orjson.loads(formatter("json")(record(value=b"\xff", headers=[("h", b"x")])))

    assert told == {
        "topic": "orders",
        "partition": 3,
        "offset": 41,
        "leader_epoch": 2,
        "timestamp": 1_700_000_000_000,
        "key": "k",
        "value_base64": "/w==",
        "headers": [{"name": "h", "value": "x"}],
    }


def test_json_is_one_line_a_record():
    assert formatter("json")(record(value=b"a\nb")).count(b"\n") == 1


@pytest.mark.parametrize("template", ["%z", "%", r"\x", "abc\\", "%%%"])
def test_a_mark_that_does_not_exist_is_refused_with_those_that_do(template):
    with pytest.raises(ValueError, match=r"there are: "):
        formatter(template)


def test_the_help_of_consume_names_every_mark(callboard):
    shown = callboard("consume", "--help").out

    assert [mark for mark in MARKS if f"%{mark}" not in shown] == []
