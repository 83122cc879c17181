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
        r"topic = \S+, partition = \d, offset = \d+, customer = customer-\d+, country = \w+",
        r'"France": 200',
        r"holds (\d+) records; the next one will have offset \1\n",
    ],
    "country_counter.py": [r'\{\n    "France": 1\n\}', r'"France": 2,\n    "USA": 1'],
    "consumer_commit_synchronous.py": [
        r"read and committed 1000 records",
        r"the next consumer of the group found 0 left",
    ],
    "consumer_commit_asynchronous.py": [r"read 1000 records, committed up to 1000 in 3 partitions"],
    "consumer_commit_retry.py": [r"read 1000 records with \d+ commits", r"without a committed offset: 0"],
    "consumer_commit_combined.py": [r"read 1000 records; committed before the end: 1000"],
    "consumer_commit_every_1000.py": [
        r"read 5000 records, committed 5 times on the way",
        r"-0: \d+, 'after customer-\d+'",
    ],
    "consumer_rebalance_listener.py": [
        r"the first reads \[0, 1, 2, 3\]",
        r"the first gives back \[\d, \d\]",
        r"the second reads \[\d",
        r"read 6000 records, 0 of them twice",
    ],
    "consumer_offsets_in_database.py": [
        r"worker 1 killed: (\d+) records stored, \1 different ones",
        r"worker 2 killed: (\d+) records stored, \1 different ones",
        r"worker 3 done: 2000 records stored, 2000 different ones",
        r"exactly once: True",
    ],
    "dead_letters.py": [
        r"read \[19, 21\]",
        r"dead letter 'celsius: 20', offset 1 of \S+: the value deserializer failed",
    ],
    "consumers_in_threads.py": [r"consumer 3: \d+ records", r"together: 6000 records"],
    "consumer_groups.py": [
        r"billing has read 1000 records",
        r"statistics has read \d{3} records",
        r"billing has 0 records left",
        r"statistics has \d{3} records left",
    ],
}


def test_every_example_is_run_here():
    programs = {path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}

    assert programs - {"demo.py"} == set(PRINTED)


def test_what_a_group_has_read_and_what_it_has_left_is_all_that_there_is(run, bootstrap_servers, topic_name):
    arguments = ["--bootstrap-servers", bootstrap_servers, "--topic", topic_name]

    printed = run(arguments, program=[str(FOLDER / "consumer_groups.py")]).stdout

    read = re.findall(r"(\w+) has read (\d+) records", printed)
    left = dict(re.findall(r"(\w+) has (\d+) records left", printed))
    assert {group: int(count) + int(left[group]) for group, count in read} == dict.fromkeys(left, 1_000), printed


@pytest.mark.parametrize("name", PRINTED)
def test_example(name, run, bootstrap_servers, topic_name):
    arguments = ["--bootstrap-servers", bootstrap_servers, "--topic", topic_name]

    ended = run(arguments, program=[str(FOLDER / name)])

    assert (ended.returncode, ended.stderr) == (0, "")
    missing = [pattern for pattern in PRINTED[name] if not re.search(pattern, ended.stdout)]
    assert missing == [], ended.stdout
