"""What the fuzzing found, each as the smallest input that did it."""

import pytest

from callboard.cli.options import settings_from
from callboard.config import SHOWN_CHARS_MAX, ClusterConfig, TopicConfig, configure, load_toml, nearest
from callboard.errors import ConfigurationError
from callboard.transport.addresses import parse_address


@pytest.mark.parametrize(
    "text",
    [b"a = " + b"[" * 5_000, b"a = " + b"1" * 5_000, b"a = '\xff'", b"a = " + b"{b=" * 5_000],
    ids=["nested", "digits", "no text", "tables"],
)
def test_a_file_that_python_cannot_parse_is_told_as_a_wrong_setting(tmp_path, text):
    path = tmp_path / "cluster.toml"
    path.write_bytes(text)

    with pytest.raises(ConfigurationError, match="not a TOML file"):
        load_toml(str(path))


def test_a_port_of_thousands_of_digits_is_no_port():
    with pytest.raises(ConfigurationError, match="is not a port"):
        parse_address("host:" + "1" * 5_000)


def test_bytes_of_a_command_line_that_are_no_text_are_refused():
    with pytest.raises(ConfigurationError, match="not text in UTF-8"):
        configure(TopicConfig, settings_from(["flush=\udcff"]), "topic t")


@pytest.mark.parametrize("values", [{"x" * 100_000: 1}, {"log_level": "y" * 100_000}, {"topic": {"z" * 100_000: 1}}])
def test_a_message_holds_only_the_beginning_of_what_was_given(values):
    with pytest.raises(ConfigurationError) as refused:
        configure(ClusterConfig, values, "the file")

    assert len(str(refused.value)) < 3 * SHOWN_CHARS_MAX


def test_nothing_is_near_a_name_of_a_million_characters():
    assert nearest("flus" + "h" * 1_000_000, ["flush"]) == ""
