"""A frozen RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) as one autograd node that keeps its input only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def fast_norm(model: nn.Module) -> Iterator[None]:
    """Inside, the plain and frozen RMSNorm layers of `model` take less time and memory in training."""
    patched = [module for module in model.modules() if _is_plain(module)]
    for module in patched:
        module.forward = _Normalise(module)
    try:
        yield
    finally:
        for module in patched:
            del module.forward


class _Normalise:
    def __init__(self, module: Any) -> None:
        self.weight, self.epsilon = module.weight, float(module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = _RMSNorm.apply(x, self.weight, self.epsilon)  # type: ignore[no-untyped-call]
        return result


class _RMSNorm(torch.autograd.Function):
    """`x / sqrt(mean(x^2) + epsilon) * weight` over the last dimension, computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        inverse = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normalised: Tensor = (x * inverse).to(x.dtype)
        return normalised.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        grad = (grads[0] * weight).float()
        normalised = x * inverse
        along = torch.linalg.vecdot(grad, normalised).unsqueeze(-1).div_(x.shape[-1])
        return grad.sub_(normalised.mul_(along)).mul_(inverse).to(x.dtype), None, None


def _is_plain(module: nn.Module) -> bool:
    """Whether the layer computes just this: asked of the layer itself, as architectures differ (some add 1)."""
    weight = getattr(module, "weight", None)
    if (
        not type(module).__name__.endswith("RMSNorm")
        or not isinstance(weight, nn.Parameter)
        or weight.requires_grad
        or not hasattr(module, "variance_epsilon")
    ):
        return False
    sample = torch.linspace(-2, 3, len(weight), device=weight.device, dtype=weight.dtype)[None]
    with torch.no_grad():
        theirs, ours = module(sample), _Normalise(module)(sample)
    return theirs.dtype == ours.dtype and torch.allclose(theirs, ours, rtol=2e-2, atol=1e-6)
