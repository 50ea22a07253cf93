"""What a model has read of several prompts at once: keys and values, masks and positions, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from tuner.kv_cache import Prefix, cache_of, common_prefix
from tuner.padded_rows import PaddedRows
from tuner.row_blocks import RowBlocks, takes_blocks

_SHORTEST_SHARED_PREFIX = 32
_TOKENS_AT_ONCE = 2048
"""On a CPU more of them are read more slowly: what layers hand to each other no longer fits its caches."""


class Reader:
    """Rows of one batch; readings give logits [rows, vocabulary] float32 for the last place of each row."""

    def __init__(self, model: Any, pad_token_id: int) -> None:
        self._model = model
        self._pad_token_id = pad_token_id
        self._device = next(model.parameters()).device
        # An index instead of a count: a slice of the hidden states is not contiguous, and torch would then multiply
        # by a copy of the head for every row (gigabytes, seconds).
        self._last = torch.tensor([-1], device=self._device)
        self._rows: RowBlocks | PaddedRows = RowBlocks() if takes_blocks(model) else PaddedRows()
        self._positions = torch.zeros((0, 1), dtype=torch.long, device=self._device)

    def common_start(self, prompts: Sequence[Sequence[int]]) -> Prefix | None:
        """What all prompts begin with (instructions and solved examples), read once, if that pays."""
        shared = _shared_prefix(prompts)
        if not shared:
            return None
        cache = DynamicCache()
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
        ids, attention = ids.to(self._device), attention.to(self._device)
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
        self._positions = positions[:, -1:]
        at_once = max(1, _TOKENS_AT_ONCE // width) if self._device.type == "cpu" else len(prompts)
        caches, logits = [], []
        for i in range(0, len(prompts), at_once):
            group = slice(i, i + at_once)
            caches.append(cache_of(prefix, len(ids[group])) if prefix else DynamicCache())
            seen = {"attention_mask": attention[group], "past_key_values": caches[-1]}
            logits.append(self._forward(ids[group], positions[group], **seen))
        self._rows.read(caches, attention, prefix)
        return torch.cat(logits)

    def read_on(self, tokens: Sequence[int]) -> torch.Tensor:
        """One more token in every row."""
        ids = torch.tensor([[token] for token in tokens], device=self._device)
        self._positions = self._positions + 1
        return self._forward(ids, self._positions, **self._rows.step())

    def keep(self, places: list[int]) -> None:
        """Drop the rows that stand elsewhere."""
        self._rows.keep(places)
        self._positions = self._positions[places]

    def join(self, other: Reader) -> None:
        """Take over the rows of `other`, a reader of the same model."""
        self._rows.join(other._rows, len(self._positions))  # type: ignore[arg-type]
        self._positions = torch.cat([self._positions, other._positions])

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """A copy of what was read of the first row's leading `tokens`."""
        return self._rows.prefix(tokens)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, **seen: Any) -> torch.Tensor:
        """`seen` is what the model is told of the places before: the cache, and a mask."""
        output = self._model(
            input_ids=ids, position_ids=positions, use_cache=True, logits_to_keep=self._last, **seen
        )
        logits: torch.Tensor = output.logits[:, -1, :].float()
        return logits


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share, if it pays to read them once.

    At least one token of each prompt is left to read, since the first answer token comes from it.
    """
    if len(prompts) < 2:
        return 0
    ordered = sorted(map(tuple, prompts))
    shared = common_prefix(ordered[0], ordered[-1], min(map(len, prompts)) - 1)
    return shared if shared >= _SHORTEST_SHARED_PREFIX else 0
