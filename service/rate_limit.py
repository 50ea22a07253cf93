"""How often one client may ask."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """A bucket for each name that holds a minute's requests and fills steadily."""

    def __init__(self, requests_per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second = requests_per_minute / 60
        self._most = float(requests_per_minute)
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}

    def seconds_to_wait(self, name: str) -> float:
        """0 if the request is let through (it then counts), else how long until one would be."""
        now = self._now()
        left, since = self._buckets.get(name, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_second)
        if left < 1:
            self._buckets[name] = (left, now)
            return (1 - left) / self._per_second
        self._buckets[name] = (left - 1, now)
        return 0.0
