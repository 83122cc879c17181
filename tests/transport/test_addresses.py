"""Endpoints as text: what is taken, what is refused and how that reads."""

import socket

import pytest

from callboard.errors import ConfigurationError
from callboard.transport.addresses import (
    Address,
    choose_endpoint,
    ipc_path_fits,
    machine_identity,
    parse_address,
    parse_addresses,
)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:9192", "tcp://127.0.0.1:9192"),
        ("tcp://127.0.0.1:9192", "tcp://127.0.0.1:9192"),
        (" localhost ", "tcp://localhost:9192"),
        ("broker.example.org:1", "tcp://broker.example.org:1"),
        ("[::1]:5", "tcp://[::1]:5"),
        ("[::1]", "tcp://[::1]:9192"),
        ("::1", "tcp://[::1]:9192"),
        ("ipc:///run/x", "ipc:///run/x"),
        ("127.0.0.1:0", "tcp://127.0.0.1:0"),
    ],
)
def test_an_endpoint_has_one_canonical_form(text, endpoint):
    assert parse_address(text).endpoint == endpoint
    assert parse_address(endpoint).endpoint == endpoint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no host"),
        (":9192", "no host"),
        ("host:", None),
        ("host:http", "'http' is not a port"),
        ("host:70000", "not a port"),
        ("host:-1", "not a port"),
        ("http://host:80", "unknown scheme 'http'"),
        ("ipc://relative", "absolute path"),
        ("ipc:///" + "x" * 200, "at most"),
        ("two words:1", "no host"),
        ("host/path:1", "no host"),
    ],
)
def test_what_is_no_endpoint_is_refused_in_one_line(text, says):
    if says is None:
        assert parse_address(text).port == 9192
        return
    with pytest.raises(ConfigurationError) as caught:
        parse_address(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["a:1,b:2", ["a:1", "b:2"], ["a:1,b:2", "a:1"], " a:1 , b:2 ,"])
def test_lists_of_endpoints_keep_their_order_and_lose_duplicates(given):
    assert parse_addresses(given) == [Address("tcp", "a", 1), Address("tcp", "b", 2)]


def test_an_empty_list_is_refused():
    for given in ("", ",", []):
        with pytest.raises(ConfigurationError, match="no endpoint"):
            parse_addresses(given)


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("[::1]:1", True),
        ("ipc:///x", True),
        ("0.0.0.0", False),
        ("192.168.0.1", False),
        ("example.org", False),
        ("*:1", False),
        ("[::]:1", False),
    ],
)
def test_only_loopback_counts_as_loopback(text, is_loopback):
    assert parse_address(text).is_loopback is is_loopback


def test_ipc_is_chosen_on_the_same_machine_while_its_socket_is_there(tmp_path):
    endpoints = ["tcp://10.0.0.1:9192", f"ipc://{tmp_path}/s"]

    assert choose_endpoint(endpoints, "m", here="m") == "tcp://10.0.0.1:9192"
    (tmp_path / "s").write_text("a file that is no socket")
    assert choose_endpoint(endpoints, "m", here="m") == "tcp://10.0.0.1:9192"
    (tmp_path / "s").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert choose_endpoint(endpoints, "m", here="m") == endpoints[1]
        assert choose_endpoint(endpoints, "m", here="other") == endpoints[0]
        assert choose_endpoint(endpoints, "", here="") == endpoints[0]
    (tmp_path / "s").unlink()


def test_a_broker_that_cannot_be_reached_from_here_is_an_error():
    with pytest.raises(ConfigurationError, match="can be reached"):
        choose_endpoint(["ipc:///run/x"], "m", here="other")


def test_the_machine_is_the_same_for_everybody_on_it():
    assert machine_identity() == machine_identity()
    assert len(machine_identity()) == 16


def test_a_unix_sockets_path_is_bounded_in_bytes_not_characters():
    assert ipc_path_fits("/" + "x" * 90)
    assert not ipc_path_fits("/" + "é" * 60)
