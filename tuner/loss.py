"""Cross-entropy computed only where there is loss, without holding the logits."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_POSITIONS_AT_ONCE = 512


_PLAIN_HEADS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


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
