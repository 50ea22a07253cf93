"""Remembers what the model has read: keys and values of prompt starts that requests have in common."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from tuner.kv_cache import Prefix, common_prefix

SHORTEST = 32
"""Shorter starts are read faster than they are fetched."""
BLOCK = 16
RECENT_PROMPTS = 64
"""Prompts an adapter that a new one is compared with to find out what they share."""


class PrefixCache:
    """Prefixes by adapter (of one base model) and tokens; those unused for longest make room.

    Nothing has to be declared: a start that two prompts shared is kept from then on.
    """

    def __init__(self, max_bytes: int) -> None:
        self.hits = 0
        self.misses = 0
        self.nbytes = 0
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str | None, tuple[int, ...]], Prefix] = OrderedDict()
        self._recent: dict[str | None, deque[tuple[int, ...]]] = {}

    def find(self, adapter: str | None, prompt: Sequence[int]) -> Prefix | None:
        """The longest remembered start of `prompt`; at least one token of it is left to read."""
        fitting = [
            key
            for key in self._entries
            if key[0] == adapter and len(key[1]) < len(prompt) and tuple(prompt[: len(key[1])]) == key[1]
        ]
        if not fitting:
            self.misses += 1
            return None
        self.hits += 1
        best = max(fitting, key=lambda key: len(key[1]))
        self._entries.move_to_end(best)
        return self._entries[best]

    def worth_keeping(self, adapter: str | None, prompt: tuple[int, ...], known: int) -> int:
        """How many leading tokens of `prompt` others asked lately have too, if clearly more than `known`; else 0.

        Of several such starts it is the shortest, in whole blocks: two questions that happen to begin alike say
        nothing about the next one.
        """
        recent = self._recent.setdefault(adapter, deque(maxlen=RECENT_PROMPTS))
        shared = (common_prefix(prompt, other, min(len(prompt), len(other)) - 1) for other in recent)
        enough = [length for length in shared if length >= known + SHORTEST]
        recent.append(prompt)
        return min(enough, default=0) // BLOCK * BLOCK

    def add(self, adapter: str | None, prefix: Prefix) -> None:
        """Remember `prefix`, unless it alone is larger than the cache."""
        key = (adapter, prefix.tokens)
        if prefix.nbytes > self._max_bytes or key in self._entries:
            return
        self._entries[key] = prefix
        self.nbytes += prefix.nbytes
        while self.nbytes > self._max_bytes:
            self.nbytes -= self._entries.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._recent.clear()
        self.nbytes = 0
