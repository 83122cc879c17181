"""Changes on their way: what the next commit will say, and the picture as it will be then. Pure.

Several decisions go into one commit (a session ended, three topics are asked for): each is made on the picture
that the ones before it leave behind. What is compared in the store is always the *base*, the last picture that
is known to be stored.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...transport.messages import Document, Put
from ..metadata.documents import StoredShape, written
from .image import ClusterImage


class Draft:
    """Puts being collected. ``image``: the base with all of them applied."""

    def __init__(self, base: ClusterImage) -> None:
        self.base = base
        self.image = base
        self._puts: dict[str, Put] = {}

    def __len__(self) -> int:
        return len(self._puts)

    def fork(self) -> Draft:
        """Return one to try things on: this one does not see them."""
        draft = Draft(self.base)
        draft.image, draft._puts = self.image, dict(self._puts)
        return draft

    def put(self, changes: Iterable[tuple[str, StoredShape | None]]) -> None:
        """Set documents by key; None: delete."""
        documents = []
        for key, shape in changes:
            value = None if shape is None else written(shape)
            if_version = self.base.version_of(key)
            if value is None and if_version == 0:
                self._puts.pop(key, None)  # made and deleted within this draft
            else:
                self._puts[key] = Put(key=key, value=value, if_version=if_version)
            documents.append(Document(key=key, version=self.base.version + 1, value=value))
        if documents:
            self.image = self.image.with_changes(self.base.version, documents)

    def puts(self) -> list[Put]:
        return list(self._puts.values())
