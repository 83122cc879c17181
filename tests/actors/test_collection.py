"""What a process of the cluster asks of the garbage collector."""

import gc

from callboard.actors.entry import COLLECT_AFTER, collect_rarely


def test_what_lives_as_long_as_the_process_is_not_looked_at_again():
    before = gc.get_threshold()
    try:
        kept = [[] for _ in range(1_000)]
        collect_rarely()

        assert gc.get_freeze_count() >= len(kept)
        assert gc.get_threshold() == COLLECT_AFTER
        assert not any(one is kept for one in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
