"""How long a client waits for a broker that says nothing, before it asks others who leads instead.

A broker that died ends its connections: that is heard within milliseconds. One that hangs or was stopped keeps them,
and only its silence tells. Producers and consumers go by the same rule: an answer that is ``SLOW_ANSWER_MS`` late is a
reason to doubt, and no more than that: nothing is given up before metadata say that somebody else leads.
"""

from __future__ import annotations

from typing import NamedTuple

SLOW_ANSWER_MS = 1_000  # behind the moment at which the answer was due; shorter than a silent broker's session lasts
LOOK_AGAIN_MS = 250  # … then this often
ELECTION_BACKOFF_MS = 5  # the first pause after "not here" or a lost connection: an election takes milliseconds


class DoubtBrokers(NamedTuple):
    """An effect: these do not answer; ask others who leads their partitions."""

    broker_ids: tuple[int, ...]
