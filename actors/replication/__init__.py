"""How followers' fetches travel: many partitions, one session between two brokers.

Read in this order: ``line`` (a follower's end of a session, pure), ``fetcher`` (the actor that keeps one to each
leader), ``sessions`` (the leader's end, pure; the router performs it). What a fetch *means*: see ``../partition/``.
"""
