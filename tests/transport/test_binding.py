"""Binding: refused in one line, never by taking away what another process has."""

import os
import socket
import stat

import pytest

from callboard.errors import ConfigurationError
from callboard.transport.seam import Stage

from .rig import rig


def refused(it, *binds):
    with pytest.raises(ConfigurationError) as caught:
        it.serve_echo(binds)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_port_in_use_is_named():
    with rig() as it:
        server, _ = it.serve_echo()

        text = refused(it, server.endpoints[0])

        assert server.endpoints[0] in text
        assert "in use" in text


def test_a_bind_that_is_not_loopback_is_refused_unless_insecure():
    with rig() as it:
        for where in ("0.0.0.0:0", "*:0", "[::]:0"):
            assert "--insecure" in refused(it, where)

        from callboard.transport import messages

        from .rig import BROKER

        server = it.transport.serve(
            ["0.0.0.0:0"], messages.ClientRequest, lambda _: None, identity=BROKER, insecure=True
        )
        assert server.endpoints[0].startswith("tcp://0.0.0.0:")


def test_an_address_of_another_machine_and_a_missing_directory_are_named(tmp_path):
    with rig() as it:
        assert "directory" in refused(it, f"ipc://{tmp_path}/none/s")
        assert "no-such-host.invalid" in refused(it, "no-such-host.invalid:0")


def test_when_one_of_several_binds_fails_none_stays(tmp_path):
    with rig() as it:
        taken, _ = it.serve_echo()

        refused(it, f"ipc://{tmp_path}/s", taken.endpoints[0])

        assert os.listdir(tmp_path) == []


def test_a_socket_file_that_somebody_listens_on_is_not_taken_away(tmp_path):
    with rig() as it:
        server, _ = it.serve_echo([f"ipc://{tmp_path}/s"])

        assert "in use" in refused(it, server.endpoints[0])

        it.ready(server.endpoints[0])


def test_a_socket_file_that_a_killed_process_left_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))  # closed without unlink: what a kill leaves
    assert stat.S_ISSOCK(os.stat(tmp_path / "s").st_mode)

    with rig() as it:
        server, _ = it.serve_echo([f"ipc://{tmp_path}/s"])
        it.ready(server.endpoints[0])


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "s").write_text("precious")

    with rig() as it:
        assert "left alone" in refused(it, f"ipc://{tmp_path}/s")

    assert (tmp_path / "s").read_text() == "precious"


def test_a_file_that_another_server_has_put_there_since_is_not_removed(tmp_path):
    with rig() as it:
        server, _ = it.serve_echo([f"ipc://{tmp_path}/s"])
        os.rename(tmp_path / "s", tmp_path / "old")
        (tmp_path / "s").write_text("another's")

        server.close()

        assert (tmp_path / "s").read_text() == "another's"
    (tmp_path / "old").unlink()


def test_ipv6_loopback_works_where_there_is_any():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with rig() as it:
        server, _ = it.serve_echo(["[::1]:0"])
        _, states = it.ready(server.endpoints[0])
        assert states[-1].stage is Stage.READY
