"""A LoRA layer as one autograd node, for training and answering: PEFT's mathematics without full-size temporaries.

PEFT computes `W x + scale * (B (A x))` as separate nodes, so that the scaling and the sum each read and write
an output-sized tensor, forward and backward. Here the low-rank product is accumulated into the base product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn


@contextmanager
def fast_lora(model: nn.Module, adapter: str) -> Iterator[None]:
    """Use the fused layer for every plain LoRA layer of `model` while `adapter` is trained."""
    use_fast_lora(model, adapter)
    try:
        yield
    finally:
        leave_fast_lora(model)


def use_fast_lora(model: nn.Module, adapter: str) -> None:
    """Until `leave_fast_lora`, plain LoRA layers compute with `adapter`, whichever PEFT has active.

    Layers with dropout, a bias, or a variant such as DoRA keep PEFT's own forward.
    """
    for module in model.modules():
        if isinstance(module, LoraLinear) and _is_plain(module, adapter):
            module.forward = _FusedForward(module, adapter)  # type: ignore[method-assign]


def use_fixed_dora(model: nn.Module, adapter: str) -> None:
    """Until `leave_fast_lora`, DoRA layers compute with `adapter`, whose weights no longer change.

    PEFT takes the norm of `W + scale * B A` at every call, which costs more than the layer itself.
    """
    for module in model.modules():
        if isinstance(module, LoraLinear) and _is_dora(module, adapter):
            module.forward = _FixedDoraForward(module, adapter)  # type: ignore[method-assign]


def leave_fast_lora(model: nn.Module) -> None:
    """PEFT's own forward everywhere."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            vars(module).pop("forward", None)


class _FusedForward:
    def __init__(self, layer: Any, adapter: str) -> None:
        self.weight = layer.base_layer.weight
        self.a = layer.lora_A[adapter].weight
        self.b = layer.lora_B[adapter].weight
        self.scale = float(layer.scaling[adapter])

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = _LoraLinear.apply(x, self.weight, self.a, self.b, self.scale)  # type: ignore[no-untyped-call]
        return result


class _FixedDoraForward(_FusedForward):
    """`(m / ||W + scale B A||) * (W x + scale B A x)` (Liu et al. 2024, arXiv:2402.09353, eq. 5), norms by output."""

    def __init__(self, layer: Any, adapter: str) -> None:
        super().__init__(layer, adapter)
        magnitude = layer.lora_magnitude_vector[adapter]
        if "fixed" not in vars(magnitude):  # kept with the layer, as adapters take turns within a batch
            with torch.no_grad():
                norm = magnitude.get_weight_norm(self.weight, self.b @ self.a, self.scale)
                magnitude.fixed = magnitude.weight / norm
        self.factor: Tensor = magnitude.fixed

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x).mul_(self.factor)


class _LoraLinear(torch.autograd.Function):
    """`x` [..., in], `weight` [out, in] (frozen), `a` [rank, in], `b` [out, rank] -> [..., out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = (rows @ a.t()).mul_(scale)
        out = rows @ weight.t()
        out.addmm_(low, b.t())
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        rows, weight, a, b, low = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_b = grad.t() @ low
        grad_a = grad_low.t() @ rows
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            grad_x.addmm_(grad_low, a)
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, grad_a, grad_b, None


def _is_plain(layer: Any, adapter: str) -> bool:
    return _is_simple(layer, adapter) and adapter not in layer.lora_variant


def _is_dora(layer: Any, adapter: str) -> bool:
    return _is_simple(layer, adapter) and isinstance(layer.lora_variant.get(adapter), DoraLinearVariant)


def _is_simple(layer: Any, adapter: str) -> bool:
    return (
        type(layer) is LoraLinear
        and type(layer.base_layer) is nn.Linear  # others may multiply by more than their weight
        and adapter in layer.lora_A
        and isinstance(layer.lora_dropout[adapter], nn.Identity)
        and getattr(layer.base_layer, "bias", None) is None
        and layer.lora_B[adapter].bias is None
    )
