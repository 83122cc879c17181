"""``callboard log``: real files, no broker."""

from __future__ import annotations

import json
import shutil

import pytest

from callboard.storage.files import OsFiles
from callboard.testing.logs import SMALL, append, contents, open_log


@pytest.fixture
def data(tmp_path):
    """A data directory with two logs, closed."""
    for name in ("a-0", "b-0"):
        log = open_log(OsFiles(), SMALL, directory=f"{tmp_path}/broker-1/{name}")
        for n in range(12):
            append(log, b"%s %d" % (name.encode(), n) + b"." * 100, epoch=1)
        log.close(0)
    return tmp_path


def damage(data, position=300):
    path = data / "broker-1" / "a-0" / "00000000000000000000.log"
    content = bytearray(path.read_bytes())
    content[position] ^= 0x20
    path.write_bytes(content)
    return path


def test_sound_logs_are_told_with_status_0(callboard, data):
    ended = callboard("log", "verify", str(data), "--json")

    reports = json.loads(ended.out)
    assert ended.status == 0
    assert [(report["state"], report["batches"], report["log_end_offset"]) for report in reports] == [
        ("sound", 12, 12)
    ] * 2
    assert "sound" in callboard("log", "verify", str(data / "broker-1")).out


def test_damage_is_told_with_its_place_and_status_1(callboard, data):
    path = damage(data)

    ended = callboard("log", "verify", str(data / "broker-1" / "a-0"))

    assert ended.status == 1
    assert f"DAMAGED {path} at " in ended.out
    assert "offsets 1 to 1 cannot be read" in ended.out
    assert "1 damaged place; `callboard log repair DIR`" in ended.err


def test_every_batch_and_every_record_is_dumped(callboard, data):
    batches = [json.loads(line) for line in callboard("log", "dump", str(data), "--json").out.splitlines()]
    ended = callboard("log", "dump", str(data / "broker-1" / "b-0"), "--records")

    assert [batch["base_offset"] for batch in batches] == list(range(12)) * 2
    assert ended.status == 0
    assert "offset=11 timestamp_ms=1000 key=None value='b-0 11..." in ended.out


def test_a_dump_shows_damage_where_it_is(callboard, data):
    damage(data)

    ended = callboard("log", "dump", str(data))

    lines = ended.out.splitlines()
    assert ended.status == 1
    assert "DAMAGED" in lines[1]
    assert "base_offset=2" in lines[2]


def test_a_repair_only_says_what_it_would_do(callboard, data):
    path = damage(data)
    before = path.read_bytes()

    ended = callboard("log", "repair", str(data))

    assert ended.status == 0
    assert "a-0: offsets 1 to 11 would be lost" in ended.out
    assert "nothing was changed" in ended.err
    assert path.read_bytes() == before


@pytest.mark.parametrize("skip", [False, True])
def test_a_repair_does_it_and_keeps_the_files_as_they_were(callboard, data, skip):
    path = damage(data)
    before = path.read_bytes()

    (done,) = json.loads(callboard("log", "repair", str(data), "--yes", "--json", *["--skip"][:skip]).out)

    assert done["lost"] == [[1, 2 if skip else 12]]
    assert (data / "broker-1" / "a-0" / "before-repair-1" / path.name).read_bytes() == before
    assert callboard("log", "verify", str(data)).status == 0
    log = open_log(OsFiles(), SMALL, directory=str(path.parent))
    assert [offset for offset, _ in contents(log)] == ([0, *range(2, 12)] if skip else [0])
    log.close(0)


def test_a_directory_in_use_is_not_repaired(callboard, data):
    path = damage(data)
    before = path.read_bytes()
    lock = OsFiles().lock(f"{data}/lock", "4711")

    ended = callboard("log", "repair", str(path.parent), "--yes")

    assert ended.status == 1
    assert "in use by the cluster of process 4711" in ended.err
    assert path.read_bytes() == before
    lock.release()


def test_a_directory_without_logs_is_told(callboard, tmp_path):
    ended = callboard("log", "verify", str(tmp_path))

    assert ended.status == 1
    assert "there is no log in it" in ended.err


def test_damage_that_is_not_the_tail_ends_a_dump_with_1_as_it_ends_verify(callboard, tmp_path):
    log = open_log(OsFiles(), SMALL, directory=str(tmp_path / "a-0"))
    for n in range(12):
        append(log, b"%d" % n + b"." * 100, epoch=1)
    log.close(0, clean=False)  # as after a kill: nothing is below the recovery point
    path = tmp_path / "a-0" / "00000000000000000000.log"
    content = bytearray(path.read_bytes())
    content[300] ^= 0x20
    path.write_bytes(content)

    assert callboard("log", "verify", str(tmp_path)).status == 1
    assert callboard("log", "dump", str(tmp_path)).status == 1


def test_a_torn_tail_ends_a_dump_with_0_as_it_ends_verify(callboard, tmp_path):
    log = open_log(OsFiles(), SMALL, directory=str(tmp_path / "a-0"))
    append(log, b"whole", epoch=1)
    append(log, b"torn", epoch=1)
    log.close(0, clean=False)
    path = tmp_path / "a-0" / "00000000000000000000.log"
    path.write_bytes(path.read_bytes()[:-3])

    assert callboard("log", "verify", str(tmp_path)).status == 0
    assert callboard("log", "dump", str(tmp_path)).status == 0


def test_a_log_where_a_sync_failed_is_not_sent_to_a_repair(callboard, data):
    (data / "broker-1" / "a-0" / "failed").write_text("Input/output error")

    verified = callboard("log", "verify", str(data))
    repaired = callboard("log", "repair", str(data))

    assert verified.status == 1
    assert "1 log where a sync failed" in verified.err
    assert "log repair" not in verified.err
    assert "remove the file `failed`" in verified.err
    assert "remove the file `failed`" in repaired.err


def test_a_segment_that_is_gone_is_told_and_repaired(callboard, data):
    path = data / "broker-1" / "a-0" / "00000000000000000000.log"
    path.unlink()

    verified = callboard("log", "verify", str(data))
    planned = callboard("log", "repair", str(data), "--skip")

    assert verified.status == 1
    assert f"DAMAGED {path} at 0: it is missing; the log begins at offset 0" in verified.out
    assert "would be lost" in planned.out


# -- beside a broker that is at work ---------------------------------------------------------------------


class Changing(OsFiles):
    """Files that a broker is at work on: ``first`` is called before the first segment is opened."""

    def __init__(self, first):
        self.first = first

    def open(self, path, **how):
        first, self.first = self.first, lambda: None
        first()
        return super().open(path, **how)


@pytest.fixture
def retention(data, monkeypatch):
    """Remove the first segment of a-0, when the command has seen which there are."""
    log = data / "broker-1" / "a-0"
    checkpoint, segments = log / "checkpoint", sorted(log.glob("*.log"))
    assert len(segments) > 2, "else there is nothing to remove"

    def remove():
        kept = open_log(OsFiles(), SMALL, directory=str(log))
        kept.delete_before(int(segments[1].stem), 12)
        kept.close(0)
        assert not segments[0].exists()
        assert checkpoint.exists()

    monkeypatch.setattr("callboard.storage.files.OsFiles", lambda: Changing(remove))
    return segments


def test_a_segment_that_retention_removes_under_verify_is_no_damage_and_no_traceback(callboard, data, retention):
    ended = callboard("log", "verify", str(data), "--json")

    reports = json.loads(ended.out)
    assert (ended.status, ended.err) == (0, "")
    assert [(report["state"], report["log_end_offset"]) for report in reports] == [("sound", 12)] * 2
    assert reports[0]["log_start_offset"] == int(retention[1].stem)


@pytest.mark.parametrize("more", [[], ["--records"]])
def test_a_segment_that_retention_removes_under_dump_is_named_and_left_out(callboard, data, retention, more):
    ended = callboard("log", "dump", str(data), *more)

    assert ended.status == 0
    assert ended.err.splitlines() == [
        f"{retention[0]}: removed while the log was read, by retention, compaction or the deletion of its topic; "
        "left out"
    ]
    assert "base_offset=11" in ended.out


@pytest.mark.parametrize("command", ["verify", "dump"])
@pytest.mark.parametrize("looks", [1, 2])
def test_a_log_that_is_removed_meanwhile_is_no_error(callboard, data, monkeypatch, command, looks):
    gone, seen = str(data / "broker-1" / "a-0"), []

    class Deleting(OsFiles):
        def list_dir(self, path):
            found = super().list_dir(path)
            seen.append(path)
            if seen.count(gone) == looks:
                shutil.rmtree(gone, ignore_errors=True)
            return found

    monkeypatch.setattr("callboard.storage.files.OsFiles", Deleting)
    ended = callboard("log", command, str(data))

    assert ended.status == 0
    assert ended.err == ("" if looks == 1 else f"{gone}: removed while it was looked at; was its topic deleted?\n")
    assert "b-0" in ended.out
