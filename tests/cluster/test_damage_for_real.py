"""A bit flipped on disk, under a real broker: told, not served; everything else is."""

from __future__ import annotations

import json

import pytest

from callboard import AdminClient, Consumer, Producer, TopicPartition
from callboard.cli.main import main
from callboard.errors import CorruptRecordError
from callboard.testing.clusters import RunningCluster

PLACE = TopicPartition("damaged", 0)
BATCHES = 20


def read_from(servers, offset):
    """Return the offsets of the first records that a consumer gets from ``offset`` on."""
    with Consumer(bootstrap_servers=servers, group_id=None) as consumer:
        consumer.assign([PLACE])
        consumer.seek(PLACE, offset)
        for _ in range(20):
            if records := consumer.poll(timeout_ms=1_000):
                return [record.offset for record in records[PLACE]]
    return []


def test_a_flipped_bit_is_refused_and_all_else_is_served(tmp_path, capsys):
    running = RunningCluster(tmp_path, brokers=1)
    try:
        running.start()
        with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
            admin.create_topics({"damaged": {"num_partitions": 1}})
        with Producer(bootstrap_servers=running.bootstrap_servers) as producer:
            for number in range(BATCHES):
                producer.send("damaged", b"%d" % number * 100).get(10)
        running.stop()
        (path,) = tmp_path.glob("**/00000000000000000000.log")
        main(["log", "dump", str(path.parent), "--json"])
        batches = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        hit = batches[7]
        content = bytearray(path.read_bytes())
        content[hit["position"] + 120] ^= 0x08
        path.write_bytes(content)
        running.start()

        assert read_from(running.bootstrap_servers, 0) == list(range(7))
        assert read_from(running.bootstrap_servers, 8)[0] == 8
        with pytest.raises(CorruptRecordError, match=f"at {hit['position']}: .*offsets 7 to 7 cannot be read"):
            read_from(running.bootstrap_servers, 7)

        assert main(["log", "verify", str(tmp_path / "data")]) == 1
        assert f"DAMAGED {path} at {hit['position']}" in capsys.readouterr().out
        assert main(["log", "repair", str(tmp_path / "data"), "--yes"]) == 1
        assert "in use by the cluster" in capsys.readouterr().err
        running.stop()
        assert main(["log", "repair", str(tmp_path / "data"), "--yes", "--skip"]) == 0
        running.start()

        assert read_from(running.bootstrap_servers, 7)[0] == 8
        with Producer(bootstrap_servers=running.bootstrap_servers) as producer:
            assert producer.send("damaged", b"next").get(10).offset == BATCHES
    finally:
        running.stop()
