"""Keys and values of running prompts: joined, cut, and kept for prompts that start alike.

Columns may begin with learned virtual tokens (`tuner.soft_prefix`), which stay before everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values [1, heads, tokens, dim] by layer of the start of a prompt."""

    tokens: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return sum(k.nbytes + v.nbytes for k, v in self.layers)


def cache_of(prefix: Prefix) -> DynamicCache:
    """A cache of one row that has read `prefix`."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(prefix.layers):
        cache.update(keys, values, layer)
    return cache


def prefix_of(cache: DynamicCache, tokens: Sequence[int], columns: torch.Tensor) -> Prefix:
    """A copy of the given columns of the first row, which stand for `tokens`."""
    layers = tuple(
        (layer.keys[:1].index_select(2, columns), layer.values[:1].index_select(2, columns))
        for layer in cache.layers
    )
    return Prefix(tuple(tokens), layers)


def keep_columns(cache: DynamicCache, columns: torch.Tensor) -> None:
    """Drop all other columns."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.index_select(2, columns), layer.values.index_select(2, columns)


def join_rows(cache: DynamicCache, other: DynamicCache, virtual: int, padding: tuple[int, int]) -> None:
    """Add the rows of `other` to `cache`; `padding` columns go before each, after the `virtual` first ones."""
    ours, theirs = padding
    for mine, new in zip(cache.layers, other.layers, strict=True):
        mine.keys = torch.cat([_padded(mine.keys, virtual, ours), _padded(new.keys, virtual, theirs)])
        mine.values = torch.cat([_padded(mine.values, virtual, ours), _padded(new.values, virtual, theirs)])


def token_bytes(model: Any) -> int:
    """About what a token takes in a cache: keys and values of every layer (some architectures keep less)."""
    config = model.config.get_text_config()
    queries = getattr(config, "num_attention_heads", None)
    if not queries:
        return 64 * 1024  # no such heads: a small model's
    heads = getattr(config, "num_key_value_heads", None) or queries
    width = getattr(config, "head_dim", None) or config.hidden_size // queries
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


def common_prefix(a: Sequence[int], b: Sequence[int], most: int) -> int:
    """How many leading tokens are equal, up to `most`."""
    return next((i for i in range(most) if a[i] != b[i]), most)


def _padded(states: torch.Tensor, virtual: int, columns: int) -> torch.Tensor:
    if not columns:
        return states
    return torch.cat([states[:, :, :virtual], pad(states[:, :, virtual:], (0, 0, columns, 0))], dim=2)
