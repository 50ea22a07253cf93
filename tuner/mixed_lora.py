"""Rows of one batch with different LoRA adapters, or none: the base product once, each adapter on its own rows.

PEFT's `adapter_names` does that too, but hooks every layer anew at each call, leaves the hooks behind after an
exception, and was slower than one batch for each adapter (docs/decisions/0006-serving.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    rows: dict[str, list[int]] = {}
    for row, adapter in enumerate(adapters):
        if adapter is not None:
            rows.setdefault(adapter, []).append(row)
    places = {adapter: torch.tensor(of, device=device) for adapter, of in rows.items()}
    layers = [m for m in model.modules() if isinstance(m, LoraLinear)]
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _MixedForward(layer, places)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward  # type: ignore[method-assign]


class _MixedForward:
    def __init__(self, layer: Any, places: dict[str, torch.Tensor]) -> None:
        self._base = layer.base_layer
        self._parts = [
            (rows, layer.lora_A[adapter], layer.lora_B[adapter], layer.scaling[adapter])
            for adapter, rows in places.items()
            if adapter in layer.lora_A
        ]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self._base(x)
        for rows, a, b, scale in self._parts:
            result.index_add_(0, rows, (b(a(x.index_select(0, rows))) * scale).to(result.dtype))
        return result


def _is_plain(layer: Any, adapter: str) -> bool:
    if adapter not in layer.lora_A:
        return True
    return adapter not in layer.lora_variant and isinstance(layer.lora_dropout[adapter], nn.Identity)
