"""Keys and values of running prompts: joined, cut, and kept for prompts that start alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 32
"""Columns that a layer has to spare after it was copied: the usual length of an answer."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values [1, heads, tokens, dim] by layer of the start of a prompt."""

    tokens: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return sum(k.nbytes + v.nbytes for k, v in self.layers)


class RoomyCache(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """A cache that has room for further single tokens, so that not every one of them has all others copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = _RoomyLayer


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """`keys` and `values` are the filled columns of tensors that may have more; see `with_room`."""

    keys: Tensor
    values: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.get_seq_length() or key_states.shape[2] != 1:
            super().update(key_states, value_states, *args, **kwargs)
        else:
            self.keys, self.values = _append(self.keys, key_states), _append(self.values, value_states)
        return self.keys, self.values


def _append(held: Tensor, new: Tensor) -> Tensor:
    """One column more, in place if there is room. What is spare is zero: a NaN in it would survive a weight of 0."""
    rows, heads, used, width = held.shape
    whole = with_room(held)
    if whole.shape[2] == used:
        whole = held.new_zeros((rows, heads, used + _ROOM, width))
        whole[:, :, :used] = held
    whole[:, :, used : used + 1] = new
    return whole[:, :, : used + 1]


def with_room(held: Tensor) -> Tensor:
    """The contiguous tensor [rows, heads, columns, dim] whose first columns `held` is; itself if that is not the case.

    Products with it need no copy, where those with its first columns do.
    """
    rows, heads, used, width = held.shape
    columns = held.stride(1) // width
    strides = (heads * columns * width, columns * width, width, 1)
    if columns <= used or held.storage_offset() or held.stride() != strides:
        return held
    return held.as_strided((rows, heads, columns, width), strides)


def cache_of(prefix: Prefix, rows: int) -> DynamicCache:
    """A cache of rows that have read `prefix`; the first reading gives each its own copy."""
    cache = RoomyCache()
    for i, (keys, values) in enumerate(prefix.layers):
        cache.update(keys, values, i)
        layer = cache.layers[i]
        # Without room of its own, lest the first token of these rows be written into the prefix.
        layer.keys = keys.contiguous().expand(rows, -1, -1, -1)
        layer.values = values.contiguous().expand(rows, -1, -1, -1)
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


def joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """The rows of all caches, which have equally many columns, in the first one; the others are empty then."""
    first, *others = caches
    for i, layer in enumerate(first.layers if others else ()):
        more = [other.layers[i] for other in others]
        layer.keys = torch.cat([layer.keys, *(other.keys for other in more)])
        layer.values = torch.cat([layer.values, *(other.values for other in more)])
        for other in more:  # at once, so that no more than one layer is in memory twice
            other.keys = other.values = None
    return first


def padded(cache: DynamicCache, columns: int) -> DynamicCache:
    """The cache with so many columns of padding before the others."""
    for layer in cache.layers if columns else ():
        layer.keys = pad(layer.keys, (0, 0, columns, 0))
        layer.values = pad(layer.values, (0, 0, columns, 0))
    return cache


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
