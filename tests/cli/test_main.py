"""How every command ends: one line, one status, never a traceback."""

import subprocess
import sys

import pytest

from callboard import errors
from callboard.cli.exits import CommandFailed, ExitStatus, one_line, status_for


class Broken:
    """Clients that fail as told, whatever is asked of them."""

    def __init__(self, error):
        self.error = error

    def consumer(self, bootstrap_servers, **settings):
        raise self.error

    producer = admin = consumer


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["topics"], ["topics", "--help"], ["consume", "-h"]])
def test_help_is_shown_with_status_0(callboard, arguments):
    ended = callboard(*arguments)

    assert ended.status == 0
    assert ended.out.startswith("Usage: callboard")
    assert ended.err == ""


def test_the_version_is_shown(callboard):
    assert callboard("--version").out.startswith("callboard ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tpoics"], "there is no command 'tpoics'; did you mean 'topics'?"),
        (["topics", "creat"], "there is no command 'creat'; did you mean 'create'?"),
        (["up", "--brokrs", "3"], "there is no option --brokrs; did you mean '--brokers'?"),
        (["consume", "t", "--from-begining"], "there is no option --from-begining; did you mean '--from-beginning'?"),
        (["--verison"], "there is no option --verison; did you mean '--version'?"),
        (["consume"], "missing argument 'TOPIC'"),
        (["produce", "t", "--acks", "2"], "'2' is not one of '0', '1', 'all'"),
        (["produce", "t", "--rate", "0"], "0"),
        (["produce", "t", "--key-separator", ""], "--key-separator cannot be empty"),
        (["consume", "t", "--offset", "5"], "--offset goes with exactly one --partition"),
        (["consume", "t", "--format", "%z"], "the format has '%z'"),
        (["consume", "t", "--max-messages", "-1"], "--max-messages"),
        (["topics", "create", "t", "--config", "flush"], "a setting is written NAME=VALUE, not 'flush'"),
        (["topics", "create", "t", "--config", "a=1", "--config", "a=2"], "the setting 'a' is given twice"),
        (["up", "--brokers", "99"], "brokers: expected int <= 64 (given: 99)"),
        (["up", "--brokers", "x"], "'x' is not a valid integer"),
        (["up", "--config", "/no/such/file.toml"], "/no/such/file.toml: cannot be read"),
    ],
)
def test_wrong_use_is_one_line_with_status_2_and_changes_nothing(callboard, arguments, said):
    ended = callboard(*arguments, clients=Broken(AssertionError("a client was made")))

    assert ended.status == ExitStatus.USAGE
    assert said in ended.err
    assert ended.err.startswith("callboard: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ConnectionFailedError("127.0.0.1:1: connect: refused"), ExitStatus.UNREACHABLE),
        (errors.ConnectionLostError("gone"), ExitStatus.UNREACHABLE),
        (errors.error_for_code(3, "no topic 'x'"), ExitStatus.REFUSED),
        (errors.error_for_code(10, "too large"), ExitStatus.REFUSED),
        (errors.ConfigurationError("no setting 'x'"), ExitStatus.USAGE),
        (errors.CallboardTimeoutError("10 s have passed"), ExitStatus.FAILED),
        (errors.BufferExhaustedError("full"), ExitStatus.FAILED),
        (CommandFailed("x", ExitStatus.ENVIRONMENT), ExitStatus.ENVIRONMENT),
        (PermissionError(13, "Permission denied", "/x"), ExitStatus.FAILED),
        (KeyboardInterrupt(), ExitStatus.INTERRUPTED),
        (RuntimeError("a bug"), ExitStatus.FAILED),
        (errors.DeliveryError("2 records"), ExitStatus.FAILED),
    ],
)
def test_each_kind_of_error_has_its_status_and_its_line(callboard, error, status):
    ended = callboard("consume", "t", clients=Broken(error))

    assert ended.status == status
    assert ended.err.startswith("callboard: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err


def test_an_error_of_several_lines_becomes_one(callboard):
    ended = callboard("consume", "t", clients=Broken(errors.CallboardError("first\n  second\tthird")))

    assert ended.err == "callboard: first second third\n"


@pytest.mark.parametrize("arguments", [["--debug", "consume", "t"], ["consume", "t", "--debug"]])
def test_debug_shows_the_traceback_before_the_line(callboard, arguments):
    ended = callboard(*arguments, clients=Broken(RuntimeError("a bug")))

    assert ended.status == ExitStatus.FAILED
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith("callboard: RuntimeError: a bug")


def test_a_reader_that_has_gone_is_no_failure(callboard):
    ended = callboard("consume", "t", clients=Broken(BrokenPipeError()))

    assert (ended.status, ended.err) == (0, "")


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_process_without_a_standard_stream_works_as_with_an_empty_one(stream):
    closed = f"import os, sys; os.close({('stdin', 'stdout', 'stderr').index(stream)})"
    command = "os.execv(sys.executable, [sys.executable, '-m', 'callboard', 'produce', 't', '-b', '127.0.0.1:1'])"

    ended = subprocess.run(
        [sys.executable, "-c", f"{closed}; {command}"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )

    assert ended.returncode == 0
    assert "bug" not in ended.stderr


def test_a_delivery_error_ends_as_its_first_record_did():
    class Future:
        exception = errors.error_for_code(10, "2 MB")

    error = errors.DeliveryError("1 record was not delivered", [Future()])

    assert status_for(error) == ExitStatus.REFUSED
    assert "2 MB" in one_line(error)


def test_the_line_of_an_operating_system_error_names_the_file():
    assert one_line(PermissionError(13, "Permission denied", "/data")) == "/data: Permission denied"
