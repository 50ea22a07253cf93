"""Attention of one new token per row on a CPU, where most of the time of decoding in batches goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tuner.kv_cache import with_room

GROUPED = "grouped-decode"
"""Torch's fused attention for prompts, and two plain products over grouped query heads for single tokens."""


def use_grouped_attention(model: Any) -> None:
    """Have a model on the CPU that attends by torch's fused kernel take `GROUPED` instead; others stay as they are.

    The fused kernel works on one (row, head) at a time and is slow in bfloat16 with a single query: 32 rows after 420
    tokens took 234 ms a token, this way 67 ms (SmolLM2-135M, two cores with AVX512-BF16).
    """
    config = model.config.get_text_config()
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa" or narrows_by_name(config):
        return
    AttentionInterface.register(GROUPED, _attend)
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    model.set_attn_implementation(GROUPED)


def narrows_by_name(config: Any) -> bool:
    """Whether a model attends otherwise under a kernel whose name it does not know.

    Those that attend to the best places of an index narrow the mask for known ones only; Falcon adds masks itself.
    """
    return any(name.startswith("index_topk") for name in vars(config)) or config.model_type == "falcon"


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
    rows, heads, tokens, dim = query.shape
    # A mask for each head, and biases (which come in the options), are rare: the fused kernel knows them.
    plain = options.get("position_bias") is None and (attention_mask is None or attention_mask.shape[1] == 1)
    if tokens > 1 or dropout or not plain:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return output
    filled, roomy = key.shape[2], (with_room(key), with_room(value))
    if roomy[0].shape[2] == roomy[1].shape[2]:  # else a model has changed one of them since it was kept
        key, value = roomy
    groups, places = key.shape[1], key.shape[2]
    grouped = query.reshape(rows * groups, heads // groups, dim)
    scores = torch.bmm(grouped, key.reshape(rows * groups, places, dim).transpose(1, 2)).float()
    scores = scores.mul_(dim**-0.5 if scaling is None else scaling).view(rows, groups, -1, places)
    scores[..., filled:] = -torch.inf
    if attention_mask is not None:
        shown, seen = attention_mask[..., :filled], scores[..., :filled]
        seen.masked_fill_(~shown, -torch.inf) if shown.dtype == torch.bool else seen.add_(shown)
    weights = scores.softmax(dim=-1).to(value.dtype).view(rows * groups, -1, places)
    attended = torch.bmm(weights, value.reshape(rows * groups, places, -1))
    return attended.view(rows, heads, 1, -1).transpose(1, 2).contiguous(), None
