"""What README shows, works: its Python is run as it stands, and its shell commands in their order."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import callboard

pytestmark = [pytest.mark.processes]

README = (Path(callboard.__file__).parent / "README.md").read_text(encoding="utf-8")
DEFAULT = "127.0.0.1:9192"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_python_of_the_readme_runs(bootstrap_servers):
    snippets = [snippet.replace(DEFAULT, bootstrap_servers) for snippet in blocks("python")]
    assert len(snippets) >= 2

    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(snippets)], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "acknowledged: partition" in ended.stdout
    assert "\n101 records\n" in ended.stdout
    assert "state: joined" in ended.stdout


def test_the_commands_of_the_readme_run(shared_cluster, bootstrap_servers, tmp_path):
    block = next(block for block in blocks("sh") if "callboard topics create" in block)
    lines = [line for line in block.splitlines() if "callboard kill" not in line]  # the cluster is shared
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    program = bin_dir / "callboard"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m callboard "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "CALLBOARD_BOOTSTRAP_SERVERS": bootstrap_servers,
    }

    ended = subprocess.run(
        [shutil.which("sh") or "/bin/sh", "-e"],
        input="\n".join(lines).replace("callboard-data", str(shared_cluster.data_dir)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
        cwd=tempfile.gettempdir(),
    )

    assert ended.returncode == 0, ended.stderr
    assert "created orders" in ended.stdout
    assert len(re.findall(r"^\d+/\d+ customer-\d+: order \d+$", ended.stdout, flags=re.M)) == 5
    assert "1,000 records sent, 1,000 acknowledged" in ended.stderr
