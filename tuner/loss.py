"""Cross-entropy computed only where there is loss, without holding the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tuner.attention import narrows_by_name
from tuner.base_model import BaseModel
from tuner.causal_attention import CAUSAL
from tuner.examples import Row

_OWN_ATTENTION_UP_TO = 512
"""Tokens in a row; it keeps a weight for every pair of them, and with 760 is no faster than the fused kernel."""
_POSITIONS_AT_ONCE = 512

_PLAIN_HEADS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def batch_loss(base: BaseModel, model: Any, batch: Sequence[Row]) -> Tensor:
    """Mean cross-entropy over the completion tokens of a batch.

    Rows are padded on the right: under causal attention no real token sees a pad, so no mask is needed.
    """
    width = max(len(row) for row in batch)
    ids = torch.full((len(batch), width), base.tokenizer.pad_token_id, dtype=torch.long)
    places: list[tuple[int, int]] = []
    targets: list[int] = []
    for i, row in enumerate(batch):
        ids[i, : len(row)] = torch.tensor([*row.prompt, *row.completion])
        start = len(row.prompt)
        places.extend((i, start + j - 1) for j in range(len(row.completion)))
        targets.extend(row.completion)
    model.config._attn_implementation = _attention(base, model, width)
    index = torch.tensor(places, device=base.device)
    wanted = torch.tensor(targets, device=base.device)
    if not has_plain_head(model):
        needed, columns = torch.unique(index[:, 1], return_inverse=True)
        logits = model(input_ids=ids.to(base.device), use_cache=False, logits_to_keep=needed).logits
        return nn.functional.cross_entropy(logits[index[:, 0], columns].float(), wanted)
    decoder = getattr(model, model.base_model_prefix)
    hidden = decoder(input_ids=ids.to(base.device), use_cache=False).last_hidden_state
    picked = hidden[index[:, 0], index[:, 1]]
    return frozen_head_loss(picked, model.get_output_embeddings().weight, wanted)


def _attention(base: BaseModel, model: Any, width: int) -> str:
    config = model.config.get_text_config()
    # Soft-caps and sinks are known to the eager way only: the others refuse them, or leave them out unsaid.
    if getattr(config, "attn_logit_softcapping", None) or not getattr(model, "_supports_sdpa", True):
        return "eager"
    if base.device.type != "cpu" or width > _OWN_ATTENTION_UP_TO or narrows_by_name(config):
        return "sdpa"
    return CAUSAL


def has_plain_head(causal: Any) -> bool:
    """Whether the logits are just `hidden @ head.t()` with a frozen head: no bias, soft-cap or scale, none trained.

    Asked of the model itself with two tokens, since every architecture keeps such things elsewhere.
    """
    head = causal.get_output_embeddings()
    capped = getattr(
        causal.config.get_text_config(), "final_logit_softcapping", None
    )  # hardly shows in small logits
    biased = getattr(head, "bias", None) is not None
    if capped or biased or any(parameter.requires_grad for parameter in head.parameters()):
        return False
    if causal not in _PLAIN_HEADS:
        with torch.no_grad():
            ids = torch.tensor([[0, 1]], device=head.weight.device)
            hidden = getattr(causal, causal.base_model_prefix)(
                input_ids=ids, use_cache=False
            ).last_hidden_state
            logits = causal(input_ids=ids, use_cache=False).logits
            ours = hidden @ head.weight.t() if hidden.shape[-1] == head.weight.shape[-1] else None
        _PLAIN_HEADS[causal] = ours is not None and torch.allclose(
            ours.float(), logits.float(), rtol=2e-2, atol=2e-2 * float(logits.abs().max())
        )
    return _PLAIN_HEADS[causal]


def frozen_head_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of `hidden` [n, dim] through a frozen `head` [vocabulary, dim] against `targets` [n].

    The logits of all positions never exist at once: each slice's gradient is taken while its logits are there.
    """
    loss: Tensor = _FrozenHeadLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return loss


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden)
        for start in range(0, len(targets), _POSITIONS_AT_ONCE):
            part = slice(start, start + _POSITIONS_AT_ONCE)
            logits = (hidden[part] @ head.t()).float()
            log_probabilities = logits.log_softmax(dim=-1)
            picked = targets[part].unsqueeze(1)
            total -= log_probabilities.gather(1, picked).sum()
            grad = log_probabilities.exp_()
            grad.scatter_add_(1, picked, torch.full_like(picked, -1, dtype=grad.dtype))
            grad_hidden[part] = grad.to(hidden.dtype) @ head
        ctx.save_for_backward(grad_hidden)
        ctx.count = max(len(targets), 1)
        mean: Tensor = total / ctx.count
        return mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_hidden,) = ctx.saved_tensors
        return grad_hidden * (grads[0] / ctx.count), None, None
