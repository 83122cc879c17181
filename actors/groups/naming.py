"""Which partition of ``__consumer_offsets`` a group belongs to, and so which broker coordinates it. Pure."""

from __future__ import annotations

from zlib import crc32


def partition_of(group_id: str, partitions: int) -> int:
    """Return the group's partition, ``0 <= partition < partitions``. Never changes: what is committed lies there."""
    return crc32(group_id.encode("utf-8", "surrogatepass")) % partitions
