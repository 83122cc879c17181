"""Every example runs, against a real cluster, and prints what its text promises."""

import re
from pathlib import Path

import pytest

from callboard import examples

pytestmark = [pytest.mark.processes]

FOLDER = Path(examples.__file__).parent
PRINTED = {
    "producer_fire_and_forget.py": [r"sent 1 record, and forgot about it"],
    "producer_synchronous.py": [
        r"Precision Products is in \S+, partition \d, offset 0",
        r"Biomedical Materials is in \S+, partition \d, offset \d",
        r"refused, and no retry would help \(retriable=False\): MessageSizeTooLargeError",
    ],
    "producer_asynchronous.py": [r"sent 1000 records to 3 partitions"],
    "producer_keys_and_partitions.py": [
        r"one key, one partition: (\d) == \1, in order: 0 < 1",
        r"chosen by hand: partition 3",
        r"the large customer alone in partition 3, 20 others in \[0, 1, 2\]",
    ],
    "producer_batches.py": [
        r"sent 100,000 records, all acknowledged",
        r"read 100,000 records .* their sum is 4,999,950,000",
    ],
    "consumer_loop.py": [
        r"topic = \S+, partition = \d, offset = 0, customer = Precision Products, country = France",
        r'"France": 2',
        r'"USA": 1',
        r"holds (\d+) records; the next one will have offset \1\n",
    ],
}


def test_every_example_is_run_here():
    programs = {path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}

    assert programs - {"demo.py"} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_example(name, run, bootstrap_servers, topic_name):
    arguments = ["--bootstrap-servers", bootstrap_servers, "--topic", topic_name]

    ended = run(arguments, program=[str(FOLDER / name)])

    assert (ended.returncode, ended.stderr) == (0, "")
    missing = [pattern for pattern in PRINTED[name] if not re.search(pattern, ended.stdout)]
    assert missing == [], ended.stdout
