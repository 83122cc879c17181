"""``callboard up``: what file and options make together. (That it runs a cluster is shown in tests/cluster.)"""

import pytest

from callboard.cli.up import cluster_config
from callboard.config import ClusterConfig
from callboard.errors import ConfigurationError


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "cluster.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_without_anything_the_defaults_hold():
    assert cluster_config(None, {"brokers": None, "port": None}) == ClusterConfig()


def test_an_option_wins_over_the_file_and_the_file_over_the_default(file):
    config = cluster_config(file("brokers = 5\nport = 7000\n[topic]\nflush = 'os'\n"), {"port": 0, "host": None})

    assert (config.brokers, config.port, config.host, config.topic.flush) == (5, 0, "127.0.0.1", "os")


def test_a_relative_directory_in_the_file_is_relative_to_the_file(file, tmp_path):
    assert cluster_config(file("data_dir = 'here'\n"), {}).data_dir == str(tmp_path / "here")
    assert cluster_config(file("data_dir = '/there'\n"), {}).data_dir == "/there"
    assert cluster_config(file("data_dir = 'here'\n"), {"data_dir": "elsewhere"}).data_dir == "elsewhere"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("brokrs = 3", r"no setting 'brokrs'; did you mean 'brokers'\?"),
        ("[topic]\nflsh = 'os'", r"topic: there is no setting 'flsh'; did you mean 'flush'\?"),
        ("brokers = 'three'", r"brokers: expected int, got str \(given: 'three'\)"),
        ("data_dir = 5", "data_dir: expected str"),
        ("[topic]\nflush = 'never'", "topic.flush"),
        ("brokers = ", "not a TOML file"),
        ("topic = 3", "topic: expected object"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_place(file, text, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        cluster_config(file(text), {})

    assert "cluster.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_option_is_not_blamed_on_the_file(file):
    with pytest.raises(ConfigurationError, match=r"^up: brokers"):
        cluster_config(file("brokers = 5"), {"brokers": 0})


def test_each_further_data_directory_is_for_logs(tmp_path, file):
    config = cluster_config(file("data_dir = 'one'\ndata_dirs = ['two', '/three']\n"), {})

    assert config.data_dir == str(tmp_path / "one")
    assert config.data_dirs == (str(tmp_path / "two"), "/three")
