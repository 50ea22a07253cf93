"""What a model has read of several prompts at once: keys and values, masks and positions, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from tuner.kv_cache import (
    Prefix,
    RoomyCache,
    cache_of,
    common_prefix,
    joined,
    keep_columns,
    padded,
    prefix_of,
)

_SHORTEST_SHARED_PREFIX = 32
_TOKENS_AT_ONCE = 2048
"""On a CPU more of them are read more slowly: what layers hand to each other no longer fits its caches."""
_MOST_LEADING_PADDING = 32
"""More columns than this that are padding in every row are cut off."""


class Reader:
    """Rows of one padded cache; readings give logits [rows, vocabulary] float32 for the last place of each row."""

    def __init__(self, model: Any, pad_token_id: int) -> None:
        self._model = model
        self._pad_token_id = pad_token_id
        self._device = next(model.parameters()).device
        # An index instead of a count: a slice of the hidden states is not contiguous, and torch would then multiply
        # by a copy of the head for every row (gigabytes, seconds).
        self._last = torch.tensor([-1], device=self._device)
        self._cache = RoomyCache()
        self._attention = torch.zeros((0, 0), dtype=torch.long, device=self._device)
        self._positions = torch.zeros((0, 1), dtype=torch.long, device=self._device)

    @property
    def width(self) -> int:
        """Columns that every row takes, padding included."""
        return self._attention.shape[1]

    def common_start(self, prompts: Sequence[Sequence[int]]) -> Prefix | None:
        """What all prompts begin with (instructions and solved examples), read once, if that pays."""
        shared = _shared_prefix(prompts)
        if not shared:
            return None
        cache = RoomyCache()
        tokens = tuple(prompts[0][:shared])
        ids = torch.tensor([tokens], device=self._device)
        self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return Prefix(tokens, tuple((layer.keys, layer.values) for layer in cache.layers))

    def read(self, prompts: Sequence[Sequence[int]], prefix: Prefix | None) -> torch.Tensor:
        """Prefill: `[prefix | padding | rest of the prompt]`, what is left to read aligned on the right."""
        shared = len(prefix.tokens) if prefix else 0
        width = max(map(len, prompts)) - shared
        ids = torch.full((len(prompts), width), self._pad_token_id, dtype=torch.long)
        attention = torch.zeros((len(prompts), shared + width), dtype=torch.long)
        attention[:, :shared] = 1
        for i, prompt in enumerate(prompts):
            rest = list(prompt[shared:])
            ids[i, width - len(rest) :] = torch.tensor(rest)
            attention[i, shared + width - len(rest) :] = 1
        ids, self._attention = ids.to(self._device), attention.to(self._device)
        positions = (self._attention.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
        self._positions = positions[:, -1:]
        at_once = max(1, _TOKENS_AT_ONCE // width) if self._device.type == "cpu" else len(prompts)
        caches, logits = [], []
        for i in range(0, len(prompts), at_once):
            group = slice(i, i + at_once)
            caches.append(cache_of(prefix, len(ids[group])) if prefix else RoomyCache())
            logits.append(self._forward(caches[-1], ids[group], self._attention[group], positions[group]))
        self._cache = joined(caches)
        return torch.cat(logits)

    def read_on(self, tokens: Sequence[int]) -> torch.Tensor:
        """One more token in every row."""
        ids = torch.tensor([[token] for token in tokens], device=self._device)
        self._attention = torch.cat([self._attention, self._attention.new_ones((len(tokens), 1))], dim=1)
        self._positions = self._positions + 1
        return self._forward(self._cache, ids, self._attention, self._positions)

    def keep(self, places: list[int]) -> None:
        """Drop the rows that stand elsewhere, and columns that are padding in all that are left."""
        if not places:
            self._cache = RoomyCache()
        else:
            self._cache.batch_select_indices(torch.tensor(places, device=self._device))
        self._attention, self._positions = self._attention[places], self._positions[places]
        if places:
            self._cut_leading_padding()

    def join(self, other: Reader) -> None:
        """Take over the rows of `other`; the shorter cache is padded on the left."""
        if not len(self._attention):
            self._cache, self._attention, self._positions = other._cache, other._attention, other._positions
            return
        width = max(self.width, other.width)
        ours, theirs = width - self.width, width - other.width
        self._cache = joined([padded(self._cache, ours), padded(other._cache, theirs)])
        attention = [pad(self._attention, (ours, 0)), pad(other._attention, (theirs, 0))]
        self._attention = torch.cat(attention)
        self._positions = torch.cat([self._positions, other._positions])

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """A copy of what was read of the first row's leading `tokens`."""
        return prefix_of(self._cache, tokens, self._attention[0].nonzero()[: len(tokens), 0])

    def _forward(
        self, cache: RoomyCache, ids: torch.Tensor, attention: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=self._last,
        )
        logits: torch.Tensor = output.logits[:, -1, :].float()
        return logits

    def _cut_leading_padding(self) -> None:
        padding = int(self._attention.argmax(dim=1).min())
        if padding <= _MOST_LEADING_PADDING:
            return
        left = torch.arange(padding, self.width, device=self._device)
        keep_columns(self._cache, left)
        self._attention = self._attention[:, padding:]


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share, if it pays to read them once.

    At least one token of each prompt is left to read, since the first answer token comes from it.
    """
    if len(prompts) < 2:
        return 0
    ordered = sorted(map(tuple, prompts))
    shared = common_prefix(ordered[0], ordered[-1], min(map(len, prompts)) - 1)
    return shared if shared >= _SHORTEST_SHARED_PREFIX else 0
