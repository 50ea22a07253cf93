"""Less memory for more time: what a transformer block computed is not kept for the way back, but computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from tuner.swapping import find_blocks


@contextmanager
def recomputed_blocks(model: Any, wanted: bool) -> Iterator[None]:
    """Inside, each block keeps its inputs only, if that is `wanted`. Results are the same, gradients too.

    transformers' own switch takes the cache away from the blocks, in which prefix tuning has its keys and values.
    """
    blocks = list(find_blocks(model)[1]) if wanted else []
    for block in blocks:
        block.forward = _Recomputed(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


class _Recomputed:
    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
