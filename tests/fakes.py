"""Stand-ins for models, so that tests need no weights."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from indexer.encoding import Passage


class HashEncoder:
    """Bag of words: every word adds to one of `dim` places, so texts that share words are near each other.

    `encoded` remembers all texts, in order.
    """

    def __init__(self, dim: int = 256, max_tokens: int = 256, id: str = "hash-encoder") -> None:  # noqa: A002
        self.id = id
        self.dim = dim
        self.max_tokens = max_tokens
        self.encoded: list[str] = []

    def count_tokens(self, text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]", text))

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        self.encoded += queries
        return self._vectors(queries)

    def encode_passages(self, passages: Sequence[Passage]) -> list[NDArray[np.float32]]:
        self.encoded += [passage.text for passage in passages]
        return [self._vectors([p.text, *(p.text[a:b] for a, b in p.sentences)]) for p in passages]

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.casefold()):
                row[zlib.crc32(word.encode()) % self.dim] += 1.0
            row /= np.linalg.norm(row) or 1.0
        return vectors
