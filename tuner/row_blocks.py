"""Keys and values of running rows in blocks of similar length, which a step of decoding reads but does not copy.

One padded cache copies all it holds for every token, shows each row as many places as the longest one has, and keeps a
start that rows share once for each of them. Here rows are in blocks; a block has its shared start once, what was read
after it, and what has come since, the only part that grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache

from tuner.attention import BLOCKS, GROUPED
from tuner.kv_cache import Prefix

_SHORTEST_PREFIX = 64
"""Places; shorter starts are kept with every row, since each part of a block costs calls."""
_MOST_RECENT = 32
"""Places that come since are put to those read before once there are more."""
_MOST_UNEVEN, _SHORT = 2, 64
"""Blocks of which one is more than this many times as wide stay apart, unless both are short."""

_TAKEN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(slots=True)
class _Layer:
    """Keys and values [rows, heads, places, dim] that were read, and those that have come since."""

    keys: Tensor
    values: Tensor
    recent_keys: Tensor
    recent_values: Tensor

    def settle(self) -> None:
        """What has come since counts as read."""
        self.keys = torch.cat([self.keys, self.recent_keys], dim=2)
        self.values = torch.cat([self.values, self.recent_values], dim=2)
        self.recent_keys, self.recent_values = self.recent_keys[:, :, :0], self.recent_values[:, :, :0]

    def select(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys[rows], self.values[rows]
        self.recent_keys, self.recent_values = self.recent_keys[rows], self.recent_values[rows]


@dataclass(slots=True)
class _Block:
    """Rows that share `prefix`; `rows` are their places in the batch, `shown` [rows, places] what is no padding."""

    rows: list[int]
    prefix: Prefix | None
    shown: Tensor
    layers: list[_Layer]
    index: Tensor = field(init=False)
    hidden: Tensor | None = field(init=False)
    """[rows, 1, 1, places]; None if there is no padding."""

    def __post_init__(self) -> None:
        self.number(self.rows)
        self._hide()

    def _hide(self) -> None:
        self.hidden = None if bool(self.shown.all()) else ~self.shown[:, None, None]

    def number(self, rows: list[int]) -> None:
        self.rows, self.index = rows, torch.tensor(rows)

    @property
    def width(self) -> int:
        return self.shown.shape[1] + self.recent

    @property
    def recent(self) -> int:
        return self.layers[-1].recent_keys.shape[2]

    def settle(self) -> None:
        if self.recent:
            self.shown = pad(self.shown, (0, self.recent), value=True)
            self._hide()
            for layer in self.layers:
                layer.settle()

    def keep(self, left: list[int]) -> None:
        """Only the rows at these places of the block, and no column that is padding in all of them."""
        self.settle()
        chosen = torch.tensor(left)
        self.shown = self.shown[chosen]
        padding = int(self.shown.int().argmax(dim=1).min())
        self.shown = self.shown[:, padding:]
        self._hide()
        for layer in self.layers:
            layer.select(chosen)
            layer.keys, layer.values = (
                part[:, :, padding:].contiguous() for part in (layer.keys, layer.values)
            )

    def fits(self, other: _Block) -> bool:
        """Whether rows of both may stand in one block."""
        narrow, wide = sorted((self.width, other.width))
        return self.prefix is other.prefix and wide <= max(_MOST_UNEVEN * narrow, _SHORT)

    def take(self, other: _Block) -> None:
        """The rows of `other` as well; the narrower of the two is padded on the left."""
        self.settle()
        other.settle()
        width = max(self.width, other.width)
        ours, theirs = width - self.width, width - other.width
        self.shown = torch.cat([pad(self.shown, (ours, 0)), pad(other.shown, (theirs, 0))])
        self._hide()
        for layer, more in zip(self.layers, other.layers, strict=True):
            layer.keys = torch.cat([_padded(layer.keys, ours), _padded(more.keys, theirs)])
            layer.values = torch.cat([_padded(layer.values, ours), _padded(more.values, theirs)])
            for name in ("recent_keys", "recent_values"):
                setattr(layer, name, torch.cat([getattr(layer, name), getattr(more, name)]))
        self.number([*self.rows, *other.rows])

    def attend(self, place: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """One layer's attention [rows, heads, dim] of a new token a row, whose key and value are kept."""
        layer = self.layers[place]
        layer.recent_keys = torch.cat([layer.recent_keys, key], dim=2)
        layer.recent_values = torch.cat([layer.recent_values, value], dim=2)
        rows, groups, _, dim = key.shape
        query = query.reshape(rows, groups, -1, dim)
        shared = None if self.prefix is None else self.prefix.layers[place]
        read = layer.keys.shape[2]
        scores = [
            *([] if shared is None else [_by_prefix(query, shared[0].transpose(2, 3))]),
            query @ layer.keys.transpose(2, 3),
            query @ layer.recent_keys.transpose(2, 3),
        ]
        weights = torch.cat(scores, dim=-1).float().mul_(scale)
        start = weights.shape[-1] - scores[-1].shape[-1] - read
        if self.hidden is not None:
            weights[..., start : start + read].masked_fill_(self.hidden, -torch.inf)
        weights = weights.softmax(dim=-1).to(value.dtype)
        recent = start + read
        attended = weights[..., start:recent] @ layer.values + weights[..., recent:] @ layer.recent_values
        if shared is not None:
            attended += _by_prefix(weights[..., :start], shared[1])
        return attended.reshape(rows, -1, value.shape[-1])


class RowBlocks(DynamicCache):  # type: ignore[misc]
    """The rows of a batch as the model's cache; `attention.py` asks it for what a layer attends to."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[_Block] = []

    def update(self, keys: Tensor, values: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Nothing yet: the new keys and values are kept when they are attended to."""
        return keys, values

    def attend(self, place: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """A layer's attention [rows, 1, heads, dim] of one token in every row."""
        if len(self._blocks) == 1 and self._blocks[0].rows == list(range(len(query))):
            return self._blocks[0].attend(place, query, key, value, scale).unsqueeze(1)
        attended = query.new_empty((*query.shape[:2], value.shape[-1]))
        for block in self._blocks:
            index = block.index
            attended[index] = block.attend(place, query[index], key[index], value[index], scale)
        return attended.unsqueeze(1)

    def read(self, caches: Sequence[DynamicCache], attention: Tensor, prefix: Prefix | None) -> None:
        """Hold what was just read into `caches`, whose rows follow each other in `attention` [rows, places].

        `prefix` stands before the other places of every row.
        """
        if prefix is not None and len(prefix.tokens) < _SHORTEST_PREFIX:
            prefix = None
        start = len(prefix.tokens) if prefix else 0
        layers = []
        for place in range(len(caches[0].layers)):
            parts = [cache.layers[place] for cache in caches]
            keys = torch.cat([part.keys[:, :, start:] for part in parts])
            values = torch.cat([part.values[:, :, start:] for part in parts])
            for part in parts:  # at once, so that no more than one layer is in memory twice
                part.keys = part.values = None
            layers.append(_Layer(keys, values, keys[:, :, :0], values[:, :, :0]))
        self._blocks = [_Block(list(range(len(attention))), prefix, attention[:, start:].bool(), layers)]

    def step(self) -> dict[str, Any]:
        """What the model is called with for one more token in every row."""
        for block in self._blocks:
            if block.recent >= _MOST_RECENT:
                block.settle()
        # A mask of four dimensions is taken as it is, so that none is made; the blocks know what is padding.
        unused = torch.ones((1, 1, 1, 1), dtype=torch.bool)
        return {"attention_mask": unused, "past_key_values": self, BLOCKS: self}

    def keep(self, places: Sequence[int]) -> None:
        """Drop all other rows; those left are numbered anew, in this order."""
        number = {old: new for new, old in enumerate(places)}
        for block in self._blocks:
            left = [i for i, row in enumerate(block.rows) if row in number]
            if left and len(left) < len(block.rows):
                block.keep(left)
            block.number([number[block.rows[i]] for i in left])
        self._blocks = [block for block in self._blocks if block.rows]

    def join(self, other: RowBlocks, rows: int) -> None:
        """Take over the rows of `other` after our own `rows`."""
        for block in other._blocks:
            block.number([rows + row for row in block.rows])
            near = next((ours for ours in self._blocks if ours.fits(block)), None)
            if near is None:
                self._blocks.append(block)
            else:
                near.take(block)

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """A copy of what was read of the first row's leading `tokens`."""
        block = next(block for block in self._blocks if 0 in block.rows)
        row = block.rows.index(0)
        start = len(block.prefix.tokens) if block.prefix else 0
        columns = block.shown[row].nonzero()[: max(len(tokens) - start, 0), 0]
        layers = []
        for place, layer in enumerate(block.layers):
            keys, values = (part[row, None].index_select(2, columns) for part in (layer.keys, layer.values))
            if block.prefix is not None:
                known = [part[:, :, : len(tokens)] for part in block.prefix.layers[place]]
                keys, values = torch.cat([known[0], keys], dim=2), torch.cat([known[1], values], dim=2)
            layers.append((keys, values))
        return Prefix(tuple(tokens), tuple(layers))


def takes_blocks(model: Any) -> bool:
    """Whether a model decodes from blocks: one on the CPU whose layers all attend to all that came before.

    Asked of the model itself, with two short rows, as not every architecture hands on what its attention is given.
    """
    config = model.config.get_text_config()
    decoder = getattr(model, model.base_model_prefix)
    hooked = bool(decoder._forward_pre_hooks)  # learned virtual tokens, which wrap the cache
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if hooked or model.config._attn_implementation != GROUPED or kinds != {"full_attention"}:
        return False
    if getattr(config, "sliding_window", None):
        return False
    if model not in _TAKEN:
        _TAKEN[model] = _same_logits(model)
    return _TAKEN[model]


@torch.inference_mode()
def _same_logits(model: Any) -> bool:
    device = next(model.parameters()).device
    ids = torch.arange(1, 13, device=device).view(2, 6) % model.config.get_text_config().vocab_size
    attention = torch.ones_like(ids)
    attention[0, :2] = 0
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
    last, more = positions[:, -1:] + 1, {"input_ids": ids[:, -1:], "use_cache": True}
    caches = [DynamicCache(), DynamicCache()]
    for cache in caches:
        model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    usual = model(
        attention_mask=pad(attention, (0, 1), value=1), position_ids=last, past_key_values=caches[0], **more
    ).logits
    blocks = RowBlocks()
    blocks.read(caches[1:], attention, None)
    try:
        ours = model(position_ids=last, **blocks.step(), **more).logits
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False
    close = 2e-2 if usual.dtype != torch.float32 else 1e-4
    return torch.allclose(ours.float(), usual.float(), rtol=close, atol=close * float(usual.abs().max()))


def _by_prefix(rows: Tensor, shared: Tensor) -> Tensor:
    """`rows` [rows, groups, heads, n] times `shared` [1, groups, n, m], as one product for each group."""
    count, groups, heads, width = rows.shape
    flat = rows.transpose(0, 1).reshape(groups, count * heads, width) @ shared[0]
    return flat.view(groups, count, heads, -1).transpose(0, 1)


def _padded(part: Tensor, columns: int) -> Tensor:
    return pad(part, (0, 0, columns, 0)) if columns else part
