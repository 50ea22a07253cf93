"""A frozen RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) in fewer passes over memory, on CPUs.

transformers computes it in six or seven steps with copies in float32 between them, all of which training keeps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def use_fast_norm(model: Any) -> None:
    """Have the plain RMSNorm layers of a model on the CPU take less time, and less memory in training.

    Others stay as they are, and so does a layer for as long as it is trained itself.
    """
    if model.device.type != "cpu":
        return
    for module in model.modules():
        if _is_plain(module) and module.weight.dtype == model.dtype:
            module.forward = _Normalise(module)


class _Normalise:
    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, x: Tensor) -> Tensor:
        module = self._module
        if module.weight.requires_grad:
            trained: Tensor = type(module).forward(module, x)
            return trained
        result: Tensor = _RMSNorm.apply(x, module.weight, float(module.variance_epsilon))  # type: ignore[no-untyped-call]
        return result


class _RMSNorm(torch.autograd.Function):
    """`x / sqrt(mean(x^2) + epsilon) * weight` over the last dimension, computed in float32; keeps `x` only."""

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


def _is_plain(module: Any) -> bool:
    """Whether the layer computes just this: asked of the layer itself, as architectures differ (some add 1)."""
    weight = getattr(module, "weight", None)
    if (
        not type(module).__name__.endswith("RMSNorm")
        or not isinstance(weight, nn.Parameter)
        or not hasattr(module, "variance_epsilon")
    ):
        return False
    sample = torch.linspace(-2, 3, len(weight), device=weight.device, dtype=weight.dtype)[None]
    with torch.no_grad():
        theirs = module(sample)
        ours = _RMSNorm.apply(sample, weight, float(module.variance_epsilon))  # type: ignore[no-untyped-call]
    return theirs.dtype == ours.dtype and torch.allclose(theirs, ours, rtol=2e-2, atol=1e-6)
