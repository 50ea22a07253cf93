"""What a model has read of several prompts at once: keys and values, masks and positions, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from tuner.kv_cache import Prefix, cache_of, common_prefix, join_rows, keep_columns, prefix_of

_SHORTEST_SHARED_PREFIX = 32
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
        self._cache = DynamicCache()
        self._attention = torch.zeros((0, 0), dtype=torch.long, device=self._device)
        self._positions = torch.zeros((0, 1), dtype=torch.long, device=self._device)

    @property
    def width(self) -> int:
        """Columns that every row takes, padding included, virtual tokens not."""
        return self._attention.shape[1]

    def read(self, prompts: Sequence[Sequence[int]], prefix: Prefix | None) -> torch.Tensor:
        """Prefill: `[shared prefix | padding | rest of the prompt]`, what is left to read aligned on the right."""
        if prefix is None:
            shared = _shared_prefix(prompts)
            self._cache = self._prefilled(prompts[0][:shared])
        else:
            shared = len(prefix.tokens)
            self._cache = cache_of(prefix)
        if shared:
            self._cache.batch_repeat_interleave(len(prompts))
        width = max(map(len, prompts)) - shared
        ids = torch.full((len(prompts), width), self._pad_token_id, dtype=torch.long)
        attention = torch.zeros((len(prompts), shared + width), dtype=torch.long)
        attention[:, :shared] = 1
        for i, prompt in enumerate(prompts):
            rest = list(prompt[shared:])
            ids[i, width - len(rest) :] = torch.tensor(rest)
            attention[i, shared + width - len(rest) :] = 1
        self._attention = attention.to(self._device)
        positions = (self._attention.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
        self._positions = positions[:, -1:]
        return self._forward(ids.to(self._device), positions)

    def read_on(self, tokens: Sequence[int]) -> torch.Tensor:
        """One more token in every row."""
        ids = torch.tensor([[token] for token in tokens], device=self._device)
        self._attention = torch.cat([self._attention, self._attention.new_ones((len(tokens), 1))], dim=1)
        self._positions = self._positions + 1
        return self._forward(ids, self._positions)

    def keep(self, places: list[int]) -> None:
        """Drop the rows that stand elsewhere, and columns that are padding in all that are left."""
        if not places:
            self._cache = DynamicCache()
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
        join_rows(self._cache, other._cache, self._virtual(), (ours, theirs))
        attention = [pad(self._attention, (ours, 0)), pad(other._attention, (theirs, 0))]
        self._attention = torch.cat(attention)
        self._positions = torch.cat([self._positions, other._positions])

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """What was read of the first row's leading `tokens`, copied, and any virtual tokens before them."""
        virtual = self._virtual()
        places = self._attention[0].nonzero()[: len(tokens), 0] + virtual
        columns = torch.cat([torch.arange(virtual, device=self._device), places])
        return prefix_of(self._cache, tokens, columns)

    def _prefilled(self, prefix: Sequence[int]) -> DynamicCache:
        """A cache of one row that has read `prefix`."""
        cache = DynamicCache()
        if prefix:
            ids = torch.tensor([list(prefix)], device=self._device)
            self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=self._attention,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=self._last,
        )
        logits: torch.Tensor = output.logits[:, -1, :].float()
        return logits

    def _cut_leading_padding(self) -> None:
        padding = int(self._attention.argmax(dim=1).min())
        if padding <= _MOST_LEADING_PADDING:
            return
        virtual = self._virtual()
        left = [*range(virtual), *range(virtual + padding, virtual + self.width)]
        keep_columns(self._cache, torch.tensor(left, device=self._device))
        self._attention = self._attention[:, padding:]

    def _virtual(self) -> int:
        """How many learned virtual tokens (see `tuner.soft_prefix`) stand in the cache before all others."""
        return int(self._cache.get_seq_length()) - self.width


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share (instructions and solved examples), if it pays to read them once.

    At least one token of each prompt is left to read, since the first answer token comes from it.
    """
    ordered = sorted(map(tuple, prompts))
    shared = common_prefix(ordered[0], ordered[-1], min(map(len, prompts)) - 1)
    return shared if len(prompts) > 1 and shared >= _SHORTEST_SHARED_PREFIX else 0
