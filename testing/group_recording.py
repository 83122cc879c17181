"""Write down what members of a group do while they do it, among the other events of a run; and the history of it.

Beside those of ``recording.py`` there are events ``commit`` (``v``: its number; ``off``: the offset, one event a
partition), ``given`` (``v``: offsets of a poll), ``read`` (``v``: when it was asked for), ``own`` and ``disown``,
``done`` (``v``: offsets that were dealt with). ``p`` is the process, ``m`` stands in ``err``: the name of the member.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ..model import OffsetAndMetadata, TopicPartition
from .clients import ClientProcess
from .group_history import Commit, CommittedRead, GroupHistory, MemberPolled, Owned, Processed
from .history import Outcome
from .recording import Recorder


class GroupRecorder:
    """One group's events, into a recorder and into a history."""

    def __init__(self, recorder: Recorder, group: str) -> None:
        self.history = GroupHistory()
        self._recorder, self._group = recorder, group
        self._numbers = itertools.count(1)
        self._commits: dict[int, list[int]] = {}  # number -> places in the history
        self._owned: dict[tuple[str, TopicPartition], int] = {}  # that are held now -> places in the history

    def invoke_commit(
        self, process: ClientProcess, member: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> int:
        """A member asks for a commit; return its number."""
        number, now_ns = next(self._numbers), process.now_ns
        places = self._commits[number] = []
        for key, given in sorted(offsets.items()):
            places.append(len(self.history.commits))
            self.history.commits.append(Commit(self._group, key, given.offset, member, "info", now_ns, 1 << 62))
            self._recorder.add(
                now_ns, process.name, "invoke", "commit", k=_text(key), v=number, off=given.offset, err=member
            )
        return number

    def end_commit(self, process: ClientProcess, number: int, outcome: Outcome, error: str) -> None:
        for place in self._commits.pop(number):
            commit = self.history.commits[place]
            self.history.commits[place] = commit._replace(outcome=outcome, completed_ns=process.now_ns)
        self._recorder.add(process.now_ns, process.name, outcome, "commit", v=number, err=error)

    def read(self, process: ClientProcess, key: TopicPartition, offset: int, asked_ns: int) -> None:
        self.history.reads.append(CommittedRead(self._group, key, offset, asked_ns, process.now_ns))
        self._recorder.add(process.now_ns, process.name, "ok", "read", k=_text(key), off=offset, v=asked_ns)

    def own(self, process: ClientProcess, member: str, key: TopicPartition) -> None:
        self._owned[member, key] = len(self.history.owned)
        self.history.owned.append(Owned(self._group, key, member, process.now_ns))
        self._recorder.add(process.now_ns, process.name, "ok", "own", k=_text(key), err=member)

    def disown(self, process: ClientProcess, member: str, key: TopicPartition) -> None:
        place = self._owned.pop((member, key))
        self.history.owned[place] = self.history.owned[place]._replace(until_ns=process.now_ns)
        self._recorder.add(process.now_ns, process.name, "ok", "disown", k=_text(key), err=member)

    def polled(self, process: ClientProcess, key: TopicPartition, offsets: Sequence[int], member: str) -> None:
        """A poll gave a member these records of a partition that it holds."""
        span = self._owned[member, key]
        self.history.polls.append(MemberPolled(self._group, key, member, span, tuple(offsets)))
        self._recorder.add(process.now_ns, process.name, "ok", "given", k=_text(key), v=list(offsets), err=member)

    def processed(self, process: ClientProcess, key: TopicPartition, offsets: Sequence[int]) -> None:
        now_ns = process.now_ns
        self.history.processed += [Processed(self._group, key, offset, now_ns) for offset in offsets]
        self._recorder.add(now_ns, process.name, "ok", "done", k=_text(key), v=list(offsets))


def _text(partition: TopicPartition) -> str:
    return f"{partition.topic}-{partition.partition}"
