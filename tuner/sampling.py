"""From logits to the next token: greedy, nucleus sampling, and what the model thought of it."""

from __future__ import annotations

import torch

GREEDY_BELOW = 1e-4
"""Dividing by a smaller temperature overflows, and would change nothing."""
_LIKELIEST = 1024


def seeded(temperature: float, seed: int) -> torch.Generator | None:
    """The randomness of one continuation; None if it is greedy."""
    return None if temperature < GREEDY_BELOW else torch.Generator().manual_seed(seed)


def sample(logits: torch.Tensor, temperature: float, top_p: float, randomness: torch.Generator) -> int:
    """Nucleus sampling (Holtzman et al. 2020): the smallest set of tokens that holds `top_p` of the probability."""
    probabilities = (logits.cpu() / temperature).softmax(dim=-1)
    if top_p >= 1.0:
        return int(torch.multinomial(probabilities, 1, generator=randomness).item())
    # The nucleus is nearly always among a few: sorting a whole vocabulary takes eight times as long.
    likeliest, ids = probabilities.topk(min(_LIKELIEST, len(probabilities)))
    if likeliest.sum() < top_p:
        likeliest, ids = probabilities.sort(descending=True)
    outside = likeliest.cumsum(dim=-1) - likeliest >= top_p
    outside[0] = False
    likeliest[outside] = 0.0
    return int(ids[torch.multinomial(likeliest, 1, generator=randomness)].item())


def log_probabilities(logits: torch.Tensor, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """The log-probability of `token` and the `count` likeliest tokens with theirs, before temperature and top-p."""
    logprobs = logits.float().log_softmax(dim=-1)
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]))
    return float(logprobs[token]), list(zip(ids.tolist(), values.tolist(), strict=True))
