"""The data directory and the ready file."""

import json
import os
import stat

import pytest

from callboard.actors import datadir
from callboard.actors.datadir import HostError, open_data_dir
from callboard.actors.processes import ProcessPlan
from callboard.actors.readyfile import ready_document
from callboard.actors.vitals import VitalSigns, disk_bytes
from callboard.errors import ConfigurationError
from callboard.storage.files import OsFiles


def opened(path, brokers=2, new_id="c0ffee"):
    return open_data_dir(OsFiles(), str(path), brokers=brokers, new_id=new_id, now_ms=1)


def test_a_new_directory_gets_its_parts_and_an_identity(tmp_path):
    data = opened(tmp_path / "a" / "b")

    assert sorted(os.listdir(data.path)) == ["broker-1", "broker-2", "cluster.json", "lock", "log", "metadata", "run"]
    assert data.identity.cluster_id == "c0ffee"
    assert stat.S_IMODE(os.stat(data.path).st_mode) == 0o700
    data.close()


def test_the_identity_stays(tmp_path):
    opened(tmp_path).close()
    again = opened(tmp_path, new_id="another")

    assert again.identity.cluster_id == "c0ffee"
    again.close()


def test_a_second_user_is_refused_and_told_the_pid_of_the_first(tmp_path):
    first = opened(tmp_path)
    with pytest.raises(HostError, match=f"in use by the cluster of process {os.getpid()}"):
        opened(tmp_path)

    first.close()
    opened(tmp_path).close()


def test_what_a_killed_host_left_in_the_run_directory_is_removed(tmp_path):
    opened(tmp_path).close()
    run = tmp_path / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    (run / "metadata.sock").touch()

    data = opened(tmp_path)
    assert os.listdir(data.run_dir) == []
    (run / "broker-1.sock").touch()
    data.close()
    assert os.listdir(run) == []


def test_a_path_too_long_for_sockets_gets_a_private_run_directory_that_is_removed(tmp_path):
    data = opened(tmp_path / ("x" * 80))
    run_dir = data.run_dir

    assert not run_dir.startswith(data.path)
    assert len(run_dir) < 60
    assert stat.S_IMODE(os.stat(run_dir).st_mode) == 0o700
    data.close()
    assert not os.path.exists(run_dir)


def test_a_run_directory_that_others_can_enter_is_refused(tmp_path, monkeypatch):
    opened(tmp_path).close()
    (tmp_path / "run").mkdir(exist_ok=True)
    os.chmod(tmp_path / "run", 0o755)
    with pytest.raises(HostError, match="not a private directory"):
        opened(tmp_path)

    os.chmod(tmp_path / "run", 0o700)
    opened(tmp_path).close()


def test_a_file_in_the_place_of_the_directory_is_a_one_line_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be used"):
        opened(tmp_path / "file")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"cluster_id": 1}'])
def test_a_damaged_identity_is_a_one_line_error_and_the_lock_is_given_back(tmp_path, content):
    (tmp_path / "cluster.json").write_bytes(content)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"cluster.json is damaged"):
            opened(tmp_path)


def test_the_directory_of_a_newer_version_is_refused(tmp_path):
    newer = {"cluster_id": "c", "created_ms": 1, "format_version": datadir.FORMAT_VERSION + 1}
    (tmp_path / "cluster.json").write_text(json.dumps(newer))
    with pytest.raises(ConfigurationError, match="use a newer callboard"):
        opened(tmp_path)


def test_the_ready_file_says_who_serves_where():
    endpoints = ("tcp://127.0.0.1:9192", "ipc:///run/broker-1.sock")
    plans = [
        ProcessPlan("metadata", None, pid=10, is_ready=True),
        ProcessPlan("broker-1", None, broker_id=1, pid=11, endpoints=endpoints, is_ready=True),
        ProcessPlan("broker-2", None, broker_id=2, pid=0, endpoints=("tcp://127.0.0.1:9193",)),
        ProcessPlan("broker-3", None, broker_id=3),
    ]
    document = ready_document(pid=9, cluster_id="c", data_dir="/d", plans=plans)

    assert document["pid"] == 9
    assert document["bootstrap_servers"] == ["127.0.0.1:9192", "127.0.0.1:9193"]
    assert [(one["id"], one["pid"], one["endpoint"]) for one in document["brokers"]] == [
        (1, 11, "127.0.0.1:9192"),
        (2, 0, "127.0.0.1:9193"),
        (3, 0, ""),
    ]
    assert document["metadata"] == {"pid": 10}


def test_vital_signs_of_a_living_and_of_a_dead_process():
    signs = VitalSigns()

    assert signs.of(os.getpid()).memory_bytes > 0
    assert signs.of(2**22 + 1).memory_bytes == 0


def test_the_size_of_a_directory_counts_what_is_below_it(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"x" * 100_000)

    assert disk_bytes(str(tmp_path)) >= 100_000
    assert disk_bytes(str(tmp_path / "not there")) == 0


def test_a_directory_with_somebody_elses_files_is_refused_and_nothing_in_it_is_touched(tmp_path):
    foreign = tmp_path / "foreign"
    (foreign / "run").mkdir(parents=True, mode=0o700)
    (foreign / "run" / "mine.txt").write_text("precious")

    with pytest.raises(ConfigurationError, match=r"holds 'run' and no cluster.json.*Choose an empty one"):
        opened(foreign)

    assert (foreign / "run" / "mine.txt").read_text() == "precious"
    assert [path.name for path in foreign.iterdir()] == ["run"]


def test_an_empty_name_is_no_directory():
    with pytest.raises(ConfigurationError, match="data_dir is empty"):
        opened("")


def test_only_sockets_are_cleaned_out_of_the_run_directory(tmp_path):
    opened(tmp_path / "data").close()
    (tmp_path / "data" / "run").mkdir(exist_ok=True, mode=0o700)
    (tmp_path / "data" / "run" / "note").write_text("kept")

    opened(tmp_path / "data").close()

    assert (tmp_path / "data" / "run" / "note").read_text() == "kept"
