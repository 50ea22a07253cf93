"""Attention for training on a CPU, as one autograd node with few temporaries.

Torch's fused kernel is slow backwards in bfloat16 on a CPU, and eager attention repeats the keys of every group of
heads and keeps the weights in float32. Here a group's heads are stacked, so that each way is a few batched products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

CAUSAL = "causal-training"
_EXTRAS = ("softcap", "s_aux", "position_bias")
"""What some models add to the scores; they come as options of the call."""


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: `query` [rows, heads, tokens, dim], `key` and `value` [rows, groups, places, dim]."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    plain = attention_mask is None and query.shape[2] == key.shape[2] and causal and not dropout
    if not plain or any(options.get(name) is not None for name in _EXTRAS):
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return output
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended: Tensor = _CausalAttention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return attended, None


class _CausalAttention(torch.autograd.Function):
    """Every token attends to itself and those before it; the result is [rows, tokens, heads, dim]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        rows, heads, tokens, dim = query.shape
        groups = key.shape[1]
        stacked = (query * scale).reshape(rows * groups, -1, dim)
        keys, values = key.reshape(-1, tokens, dim), value.reshape(-1, tokens, value.shape[-1])
        scores = torch.bmm(stacked, keys.transpose(1, 2))
        later = torch.full((tokens, tokens), -torch.inf, dtype=scores.dtype, device=scores.device).triu_(1)
        scores.view(rows * heads, tokens, tokens).add_(later)
        weights = scores.softmax(dim=-1)
        attended = torch.bmm(weights, values)
        ctx.save_for_backward(stacked, keys, values, weights)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape, value.shape)
        return attended.view(rows, heads, tokens, -1).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        stacked, keys, values, weights = ctx.saved_tensors
        of_query, of_key, of_value = ctx.shapes
        grad = grads[0].transpose(1, 2).reshape(len(keys), -1, values.shape[-1])
        grad_values = torch.bmm(weights.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, values.transpose(1, 2))
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_query = torch.bmm(grad_scores, keys).mul_(ctx.scale)
        grad_keys = torch.bmm(grad_scores.transpose(1, 2), stacked)
        return grad_query.view(of_query), grad_keys.view(of_key), grad_values.view(of_value), None


AttentionInterface.register(CAUSAL, _attend)
AttentionMaskInterface.register(CAUSAL, sdpa_mask)
