"""Rows of one batch with different LoRA adapters, or none: the base product once, each adapter added to its own rows.

PEFT's `adapter_names` does that too, but hooks every layer anew at each call, leaves the hooks behind after an
exception, and was slower than one batch for each adapter (docs/decisions/0006-serving.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn


def can_mix(model: nn.Module, adapter: str) -> bool:
    """Whether `adapter`, which is loaded, is plain LoRA on linear layers and nothing else."""
    layers: list[Any] = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    if any(isinstance(module, AuxiliaryTrainingWrapper) for module in model.modules()):
        return False  # whole modules are exchanged, for all rows alike
    if not all(type(layer) is LoraLinear and _is_plain(layer, adapter) for layer in layers):
        return False
    return any(adapter in layer.lora_A for layer in layers)  # else it is none of LoRA's kin


@contextmanager
def mixed_lora(model: nn.Module, adapters: Sequence[str | None]) -> Iterator[None]:
    """Inside the block row i of a batch is computed with adapter `adapters[i]`, all of which are loaded."""
    device = next(model.parameters()).device
    others: dict[str, torch.Tensor] = {
        adapter: torch.tensor([of != adapter for of in adapters], device=device)
        for adapter in adapters
        if adapter is not None
    }
    layers = [m for m in model.modules() if isinstance(m, LoraLinear)]
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _MixedForward(layer, others)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward  # type: ignore[method-assign]


class _MixedForward:
    """Every row goes through every `A`: to clear what is not theirs costs less than to take rows out and back in."""

    def __init__(self, layer: Any, others: Mapping[str, torch.Tensor]) -> None:
        self._base = layer.base_layer
        self._parts = [
            (layer.lora_A[adapter].weight.t(), layer.lora_B[adapter].weight.t(), layer.scaling[adapter], rows)
            for adapter, rows in others.items()
            if adapter in layer.lora_A
        ]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self._base(x)
        out = result.view(-1, result.shape[-1])
        for a, b, scale, others in self._parts:
            low = x @ a
            # Some layers get their rows without the dimension of tokens.
            low.masked_fill_(others.view(-1, *[1] * (x.dim() - 1)), 0)
            out.addmm_(low.view(-1, low.shape[-1]), b, alpha=scale)
        return result


def _is_plain(layer: Any, adapter: str) -> bool:
    if adapter not in layer.lora_A:
        return True
    return (
        adapter not in layer.lora_variant
        and isinstance(layer.lora_dropout[adapter], nn.Identity)
        and layer.lora_B[adapter].bias is None
    )
