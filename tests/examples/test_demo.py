"""The main job, as `make demo` does it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from callboard import examples

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

DEMO = str(Path(examples.__file__).parent / "demo.py")


@pytest.fixture
def private_tmp(monkeypatch):
    """A temporary directory of its own: what is left in it afterwards, the demo has left."""
    directory = tempfile.mkdtemp(prefix="demo-")
    monkeypatch.setenv("TMPDIR", directory)
    yield directory
    shutil.rmtree(directory)


def test_the_demo_ends_with_a_log_that_equals_the_file_and_leaves_nothing(run, private_tmp):
    ended = run([], program=[DEMO], timeout=150)

    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert "The log equals the file." in ended.stdout
    assert "NO" not in ended.stdout
    assert re.search(r"UA\W+United Air Lines Inc\.\W+4,637\W+4,637\W+yes", ended.stdout)
    assert re.search(r"killed broker 2 \(pid \d+, SIGKILL\)", ended.stdout)
    away = re.search(r"longest time without an acknowledgement (\d+) ms", ended.stdout)
    assert away is not None
    assert float(away[1]) > 0
    assert os.listdir(private_tmp) == []


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_cleans_up_when_it_is_interrupted(signal_number, private_tmp):
    with subprocess.Popen([sys.executable, "-u", DEMO], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "cluster ready" in line:
                break
        demo.send_signal(signal_number)
        rest = demo.stdout.read()

    assert demo.returncode == 130, rest
    assert "interrupted" in rest
    assert os.listdir(private_tmp) == []
