"""docs/protocol.md says what the code does: every message, every field, every code; and its example runs."""

import importlib.util
import re
import threading
from pathlib import Path

import zmq

from callboard.config import Limits
from callboard.errors import ERRORS_BY_CODE
from callboard.transport import codec, messages

from .rig import rig

_spec = importlib.util.spec_from_file_location("protocol_tables", Path(__file__).with_name("protocol_tables.py"))
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)
TEXT = tables.DOCUMENT.read_text("utf-8")


def test_the_tables_are_those_of_the_code():
    assert tables.rewritten(TEXT) == TEXT, "run: python tests/transport/protocol_tables.py"


def test_every_message_is_described_with_every_field_of_its_own():
    for cls in [*tables.requests(), *tables.replies()]:
        heading = f"#### `{tables.tag(cls)}`\n"
        assert heading in TEXT
        block = TEXT.partition(heading)[2].partition("\n#### ")[0]
        for field in set(cls.__struct_fields__) - tables.IMPLIED:
            assert f"| `{field}` |" in block, f"{tables.tag(cls)}.{field}"


def test_every_part_is_described():
    for cls in tables.parts():
        assert f"#### {cls.__name__}\n" in TEXT
        assert set(tables.own_fields(cls)) == set(cls.__struct_fields__)


def test_every_answer_that_is_named_exists():
    tags = {tables.tag(cls) for cls in tables.replies()}
    assert set(re.findall(r"Answered by `([a-z_.]+)`", TEXT)) <= tags


def test_every_error_code_is_listed():
    for code, error in ERRORS_BY_CODE.items():
        assert f"| {code} | `{error.errno.name}` |" in TEXT


def test_the_limits_are_the_defaults():
    assert f"| payload frames of a request | {Limits().request_frames:,} |" in TEXT
    assert f"| one request, header and payload | {Limits().request_bytes >> 20} MiB |" in TEXT
    assert f"| header of a request | {codec.HEADER_BYTES_MAX >> 20} MiB |" in TEXT
    assert f"| connections of a server | {Limits().connections:,} |" in TEXT
    assert f"{Limits().reply_bytes_waiting_per_peer >> 20} MiB, then they are dropped" in TEXT
    assert f"{Limits().requests_waiting:,}, then `OVERLOADED`" in TEXT


def test_the_example_works_against_a_real_server(capsys):
    example = re.search(r"```python\n(.+?)```", TEXT, flags=re.S)[1]
    with rig() as it:

        def on_requests(batch):
            for inbound in batch:
                topics = [messages.TopicMetadata(name="flights", topic_id="ab")]
                server.reply(inbound.peer, messages.MetadataReply(id=inbound.message.id, topics=topics))

        from .rig import BROKER

        server = it.transport.serve(["127.0.0.1:0"], messages.ClientRequest, on_requests, identity=BROKER)
        done = []

        def run():
            scope = {}
            try:
                exec(example.replace("tcp://127.0.0.1:9192", server.endpoints[0]), scope)
            finally:
                scope["socket"].close()
                zmq.Context.instance().term()
                done.append(True)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        it.until(lambda: done)
        thread.join()

    assert capsys.readouterr().out == "broker-1 ['flights']\n"
