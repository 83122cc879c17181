"""``callboard log``: read the logs of a directory without a broker; repair one that is damaged."""

from __future__ import annotations

from .commands import Entry, LazyGroup

COMMANDS = {
    "dump": Entry("log_files", "dump", "Show every batch, or every record."),
    "verify": Entry("log_files", "verify", "Read everything and check it; tell what is damaged."),
    "repair": Entry("log_files", "repair", "Say, or with --yes do, what makes a damaged log usable again."),
}

log = LazyGroup(
    name="log",
    entries=COMMANDS,
    short_help="Dump, verify or repair logs on disk, without a broker.",
    help="Read the logs of a data directory, a broker's directory or a single log, without a broker.",
)
