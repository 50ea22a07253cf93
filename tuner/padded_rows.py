"""Keys and values of running rows in one padded cache: the way that every model and device can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from tuner.kv_cache import Prefix, joined, keep_columns, padded, prefix_of

_MOST_LEADING_PADDING = 32
"""More columns than this that are padding in every row are cut off."""


class PaddedRows:
    """Every row as wide as the widest, the padding on the left."""

    def __init__(self) -> None:
        self._cache = DynamicCache()
        self._attention = torch.zeros((0, 0), dtype=torch.long)

    def read(self, caches: Sequence[DynamicCache], attention: Tensor, prefix: Prefix | None) -> None:  # noqa: ARG002 - every row has its own copy
        """Hold what was just read into `caches`, whose rows follow each other in `attention` [rows, places]."""
        self._cache, self._attention = joined(caches), attention

    def step(self) -> dict[str, Any]:
        """What the model is called with for one more token in every row."""
        more = self._attention.new_ones((len(self._attention), 1))
        self._attention = torch.cat([self._attention, more], dim=1)
        return {"attention_mask": self._attention, "past_key_values": self._cache}

    def keep(self, places: Sequence[int]) -> None:
        """Drop the rows that stand elsewhere, and columns that are padding in all that are left."""
        if not places:
            self._cache, self._attention = DynamicCache(), self._attention[:0]
            return
        chosen = torch.tensor(places, device=self._attention.device)
        self._cache.batch_select_indices(chosen)
        self._attention = self._attention[chosen]
        padding = int(self._attention.argmax(dim=1).min())
        if padding > _MOST_LEADING_PADDING:
            keep_columns(self._cache, torch.arange(padding, self._attention.shape[1], device=chosen.device))
            self._attention = self._attention[:, padding:]

    def join(self, other: PaddedRows, rows: int) -> None:
        """Take over the rows of `other` after our own `rows`; the shorter cache is padded on the left."""
        if not rows:
            self._cache, self._attention = other._cache, other._attention
            return
        width = max(self._attention.shape[1], other._attention.shape[1])
        ours, theirs = width - self._attention.shape[1], width - other._attention.shape[1]
        self._cache = joined([padded(self._cache, ours), padded(other._cache, theirs)])
        self._attention = torch.cat([pad(self._attention, (ours, 0)), pad(other._attention, (theirs, 0))])

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """A copy of what was read of the first row's leading `tokens`."""
        return prefix_of(self._cache, tokens, self._attention[0].nonzero()[: len(tokens), 0])
