"""How likely a model finds given texts: sums of log-probabilities, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

_BATCH_TOKENS, _BATCH_TOKENS_ON_CPU = 8192, 2048
"""On a CPU more at once are read more slowly, as they no longer fit its caches."""
_LOGIT_POSITIONS = 1024
"""Positions whose logits are held at once: a vocabulary of 50,000 takes 200 MB for these."""


class Continuation(NamedTuple):
    """Token ids of what is given and of what is scored; neither may be empty."""

    given: Sequence[int]
    scored: Sequence[int]


@torch.inference_mode()
def log_likelihoods(
    model: Any,
    pad_token_id: int,
    continuations: Sequence[Continuation],
    advance: Callable[[int], object] = lambda _: None,
) -> list[float]:
    """Log-probability (natural) of `scored` after `given`, in the order of the arguments.

    `advance` is told how many tokens more have been read.
    """
    results = [0.0] * len(continuations)
    on_cpu = next(model.parameters()).device.type == "cpu"
    for places in _batches(continuations, _BATCH_TOKENS_ON_CPU if on_cpu else _BATCH_TOKENS):
        rows = [continuations[place] for place in places]
        for place, value in zip(places, _batch(model, pad_token_id, rows), strict=True):
            results[place] = value
        advance(sum(map(token_count, rows)))
    return results


def token_count(row: Continuation) -> int:
    """Tokens that are read for it."""
    return len(row.given) + len(row.scored)


def _batches(continuations: Sequence[Continuation], most_tokens: int) -> Iterator[list[int]]:
    """Places, similar lengths together, within the budgets of tokens and logits."""
    batch: list[int] = []
    longest_scored = 0
    for place in sorted(range(len(continuations)), key=lambda p: sum(map(len, continuations[p]))):
        length = sum(map(len, continuations[place]))
        scored = max(longest_scored, len(continuations[place].scored))
        too_long = (len(batch) + 1) * length > most_tokens
        if batch and (too_long or (len(batch) + 1) * scored > _LOGIT_POSITIONS):
            yield batch
            batch, scored = [], len(continuations[place].scored)
        batch.append(place)
        longest_scored = scored
    if batch:
        yield batch


def _batch(model: Any, pad_token_id: int, rows: Sequence[Continuation]) -> list[float]:
    device = next(model.parameters()).device
    width = max(len(row.given) + len(row.scored) for row in rows)
    longest = max(len(row.scored) for row in rows)
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens = [*row.given, *row.scored]
        ids[i, width - len(tokens) :] = torch.tensor(tokens)
        attention[i, width - len(tokens) :] = 1
    ids, attention = ids.to(device), attention.to(device)
    output = model(
        input_ids=ids,
        attention_mask=attention,
        position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        # Places instead of a count: of a slice, torch multiplies each row by a copy of the head.
        logits_to_keep=torch.arange(-longest - 1, 0, device=device),
    )
    # The logits at one position are about the token at the next.
    return [
        _log_likelihood(output.logits[i, -len(row.scored) - 1 : -1], ids[i, -len(row.scored) :])
        for i, row in enumerate(rows)
    ]


def _log_likelihood(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    """Of `tokens` [n] by `logits` [n, vocabulary]; a row at a time, since all of them in float32 take long to fill."""
    logits = logits.float()
    picked = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return float((picked - logits.logsumexp(dim=-1)).sum())
