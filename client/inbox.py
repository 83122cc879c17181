"""What has come for a consumer: from the I/O thread's items to partitions, from partitions to records.

The I/O thread appends to ``items``; everything else happens on the consumer's side, under its lock. What is used
up, or is not wanted any more, is given back as credit: that is what lets the I/O thread fetch on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from ..errors import CallboardError, SerializationError
from ..model import AnyRecord, TopicPartition
from .applicant import Granted
from .fetch_state import Credit
from .fetcher import Deliver, TellError, TellPosition, TellTruncated, TellWatermarks
from .fetching import Assigned, Item, Subscription
from .reading import Decoding, PartitionReader, RecordColumns


class Inbox:
    """The partitions that a consumer reads, and what has been fetched of them."""

    def __init__(self, decoding: Decoding) -> None:
        self.items: deque[Item] = deque()
        self.readers: dict[TopicPartition, PartitionReader] = {}
        self.ready: dict[TopicPartition, PartitionReader] = {}  # those with data; the first is served first
        self.arrivals: dict[int, PartitionReader] = {}  # by generation: granted to the member, not yet taken over
        self.truncated: list[tuple[TopicPartition, int]] = []  # to go back in, to the offset at most
        self.subscription: Subscription | None = None  # the present one; what was assigned for earlier ones is dropped
        self._decoding = decoding
        self._total = Credit()
        self._ask_for_more: Callable[[], None] = lambda: None

    def connect(self, total: Credit, ask_for_more: Callable[[], None]) -> None:
        """Say whose credit it is, and how the I/O thread is told that there is some again."""
        self._total, self._ask_for_more = total, ask_for_more

    # -- what is read ------------------------------------------------------------------------------

    def forget(self) -> None:
        """Nothing of all this is wanted any more."""
        freed = sum(len(item.data) for item in self.items if isinstance(item, Deliver))
        self.items.clear()
        freed += sum(reader.move_to(0, None) for reader in (*self.readers.values(), *self.arrivals.values()))
        self.readers, self.ready, self.arrivals = {}, {}, {}
        self.give_back(freed)

    def subscribe(self, subscription: Subscription) -> None:
        """Read these topics; of others nothing more is handed out."""
        self.subscription = subscription
        for reader in (*self.readers.values(), *self.arrivals.values()):
            reader.is_unsubscribed = self._is_unsubscribed(reader)

    def _is_unsubscribed(self, reader: PartitionReader) -> bool:
        return self.subscription is not None and not self.subscription.covers(reader.key.topic)

    def assign(self, keys: Iterable[TopicPartition], next_generation: Callable[[], int]) -> list[PartitionReader]:
        """Read these partitions; return their readers, new each."""
        for key in keys:
            self.readers[key] = PartitionReader(key, next_generation(), Credit())
        return list(self.readers.values())

    def take_over(self, generations: Iterable[int]) -> list[TopicPartition]:
        """The application has these now; what has come for them meanwhile can be handed out."""
        taken = []
        for generation in generations:
            reader = self.arrivals.pop(generation, None)
            if reader is not None:
                self.readers[reader.key] = reader
                taken.append(reader.key)
                if reader.has_data:
                    self.ready[reader.key] = reader
        return taken

    def give_up(self, keys: Iterable[TopicPartition], generations: Iterable[int] = ()) -> list[TopicPartition]:
        """These are not read any more, and arrivals of these generations will not be; return which were read."""
        given_up = []
        for key in keys:
            reader = self.readers.pop(key, None)
            self.ready.pop(key, None)
            if reader is not None:
                given_up.append(key)
                self.give_back(reader.move_to(0, None))
        for generation in generations:
            arrival = self.arrivals.pop(generation, None)
            if arrival is not None:
                self.give_back(arrival.move_to(0, None))
        return given_up

    def move(self, key: TopicPartition, generation: int, position: int | None) -> None:
        """The position is another one: what was fetched for the old one is not wanted any more."""
        reader = self.readers[key]
        self.ready.pop(key, None)
        self.give_back(reader.move_to(generation, position), reader)

    def go_back(self, next_generation: Callable[[], int]) -> list[tuple[TopicPartition, int, int, None]]:
        """Move each position whose log was truncated below it; return the seeks that the I/O side must make."""
        truncated, self.truncated = self.truncated, []
        seeks = []
        for key, offset in truncated:
            reader = self.readers.get(key)
            if reader is not None:
                position = offset if reader.position is None else min(reader.position, offset)
                generation = next_generation()
                self.move(key, generation, position)
                seeks.append((key, generation, position, None))
            elif any(one.key == key for one in self.arrivals.values()):
                self.truncated.append((key, offset))  # later, when the application has it
        return seeks

    def sort(self) -> None:
        """Give each partition what came for it."""
        items, readers = self.items, self.readers
        while items:
            item = items.popleft()
            if isinstance(item, Assigned):
                if self.subscription is item.subscription:
                    readers[item.key] = PartitionReader(item.key, item.generation, item.credit)
                continue
            if isinstance(item, Granted):
                granted = self.arrivals[item.generation] = PartitionReader(item.key, item.generation, item.credit)
                granted.is_unsubscribed = self._is_unsubscribed(granted)
                continue
            reader = readers.get(item.key)
            if self.arrivals and (reader is None or reader.generation != getattr(item, "generation", 0)):
                reader = self._arrival(item) or reader
            if isinstance(item, Deliver):
                if reader is None or reader.generation != item.generation:
                    self.give_back(len(item.data), reader)
                else:
                    reader.on_data(item.from_offset, item.data)
                    if reader is readers.get(item.key):
                        self.ready.setdefault(item.key, reader)
            elif reader is None:
                continue
            elif isinstance(item, TellWatermarks):
                reader.high_watermark, reader.log_start_offset = item.high_watermark, item.log_start_offset
            elif reader.generation == item.generation:
                if isinstance(item, TellPosition):
                    if not reader.has_data:
                        reader.position = item.offset
                elif isinstance(item, TellError):
                    reader.error = item.error
                elif isinstance(item, TellTruncated):
                    self.truncated.append((item.key, item.offset))

    def _arrival(
        self, item: Deliver | TellPosition | TellError | TellTruncated | TellWatermarks
    ) -> PartitionReader | None:
        if isinstance(item, TellWatermarks):
            return next((reader for reader in self.arrivals.values() if reader.key == item.key), None)
        return self.arrivals.get(item.generation)

    # -- what the I/O thread asks, beside whoever holds the lock -----------------------------------

    def has_reader(self, key: TopicPartition, generation: int) -> bool:
        """Say whether what is fetched for that position reaches a reader. Before all is sorted it may."""
        reader = self.readers.get(key)
        is_read = (reader is not None and reader.generation == generation) or generation in self.arrivals
        return is_read or bool(self.items)

    def holds(self, key: TopicPartition | None, generation: int) -> bool:
        """Say whether records of that position lie here, of any for ``None``, or may."""
        if self.items:
            return True
        if key is None:
            return any(one.holds for one in (*list(self.readers.values()), *list(self.arrivals.values())))
        reader = self.arrivals.get(generation) or self.readers.get(key)
        return reader is not None and reader.generation == generation and reader.holds

    # -- what is handed out ------------------------------------------------------------------------

    def take(self, limit: int) -> dict[TopicPartition, list[AnyRecord]] | None:
        """Return up to ``limit`` records of the partitions with data, in turn; None: there are none.

        Raises:
            SerializationError, CorruptRecordError: the next record cannot be handed out, and nothing else was
            before it.
        """
        found: dict[TopicPartition, list[AnyRecord]] = {}
        for key, reader in list(self.ready.items()):
            if reader.is_held:
                continue
            try:
                records, freed = reader.take(limit, self._decoding)
            except CallboardError:
                if found:
                    break  # what is there first; the next call raises
                raise
            self.give_back(freed, reader)
            if records:
                found[key] = records
                limit -= len(records)
            del self.ready[key]
            if reader.has_data:
                self.ready[key] = reader  # behind the others
            if limit <= 0:
                break
        return found or None

    def take_columns(self, limit: int) -> dict[TopicPartition, list[RecordColumns]] | None:
        """Return batches until ``limit`` records are reached; None: there are none."""
        found: dict[TopicPartition, list[RecordColumns]] = {}
        for key, reader in list(self.ready.items()):
            if reader.is_held:
                continue
            while limit > 0 and (reader.chunks or reader.chunk is not None):
                columns, freed = reader.take_columns(self._decoding)
                self.give_back(freed, reader)
                found.setdefault(key, []).extend(columns)
                limit -= sum(map(len, columns))
            if not reader.has_data:
                del self.ready[key]
        return {key: columns for key, columns in found.items() if columns} or None

    def next_reader(self) -> PartitionReader | None:
        """Return a partition with a record decoded and ready to hand out; None: there is none. For iteration.

        Raises:
            SerializationError, CorruptRecordError: its next record cannot be handed out.
        """
        for key, reader in list(self.ready.items()):
            if reader.is_held:
                continue
            del self.ready[key]
            self.give_back(reader.prepare(self._decoding), reader)
            if reader.has_data:
                self.ready[key] = reader
            if reader.at < len(reader.records):
                return reader
            if reader.bad is not None:
                raise reader.bad.with_traceback(None)  # it may be raised often
        return None

    def pass_over(self, reader: PartitionReader, error: SerializationError) -> None:
        """What could not be read has been dealt with: go on behind it, if it is the next one still; after the others'
        turn."""
        if not reader.pass_over(error):
            return
        if reader.is_used_up:
            self.give_back(reader.release(), reader)
        self.ready.pop(reader.key, None)
        if reader.has_data:
            self.ready[reader.key] = reader

    def give_back(self, freed: int, reader: PartitionReader | None = None) -> None:
        """So many bytes of fetched data are used up: the I/O thread may fetch as many."""
        if not freed:
            return
        self._total.consumed += freed
        is_wanted = self._total.is_wanted
        if reader is not None:
            reader.credit.consumed += freed
            is_wanted = is_wanted or reader.credit.is_wanted
        if is_wanted:
            self._ask_for_more()
