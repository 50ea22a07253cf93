"""Batched decoding of prompts, greedy or sampled, used for dev scores in training and for serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import DynamicCache

_SHORTEST_SHARED_PREFIX = 32
_GREEDY_BELOW = 1e-4
"""Dividing by a smaller temperature overflows, and would change nothing."""

FinishReason = Literal["stop", "length"]


class DecodingCancelled(Exception):
    """The caller no longer wants the answers."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one prompt is continued; `temperature=0` is greedy."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """One continuation, stripped of white space and of its stop string."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason


@dataclass(slots=True)
class _Row:
    """The state of one running prompt; `place` is its position in the caller's list."""

    place: int
    sampling: Sampling
    randomness: torch.Generator | None
    tokens: list[int] = field(default_factory=list)


def decode(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sequence[Sampling],
    max_batch_tokens: int = 8192,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Decoded]:
    """Continue every prompt; results stand in the order of the prompts, however they were batched.

    Raises DecodingCancelled between two tokens once `cancelled()` is true.
    """
    results: list[Decoded | None] = [None] * len(prompts)
    for batch in _batches_by_length(prompts, sampling, max_batch_tokens):
        for place, decoded in _decode_batch(model, tokenizer, prompts, sampling, batch, cancelled):
            results[place] = decoded
    return [result for result in results if result is not None]


def _batches_by_length(
    prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling], max_batch_tokens: int
) -> Iterator[list[int]]:
    """Places of prompts, similar lengths together, each batch within the token budget (one prompt at least)."""
    batch: list[int] = []
    for place in sorted(range(len(prompts)), key=lambda p: len(prompts[p])):
        width = len(prompts[place]) + sampling[place].max_new_tokens
        if batch and width * (len(batch) + 1) > max_batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


@torch.inference_mode()
def _decode_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sequence[Sampling],
    places: Sequence[int],
    cancelled: Callable[[], bool],
) -> Iterator[tuple[int, Decoded]]:
    device = next(model.parameters()).device
    stop_ids = _stop_ids(model, tokenizer)
    rows = [_Row(place, sampling[place], _randomness(sampling[place])) for place in places]
    shared = _shared_prefix([prompts[place] for place in places])
    cache = _prefilled(model, prompts[places[0]][:shared], len(places), device)
    # [shared prefix | padding | rest of the prompt]: what is left to read is aligned on the right.
    width = max(len(prompts[place]) for place in places) - shared
    input_ids = torch.full((len(rows), width), tokenizer.pad_token_id, dtype=torch.long)
    attention = torch.zeros((len(rows), shared + width), dtype=torch.long)
    attention[:, :shared] = 1
    for i, place in enumerate(places):
        rest = list(prompts[place][shared:])
        input_ids[i, width - len(rest) :] = torch.tensor(rest)
        attention[i, shared + width - len(rest) :] = 1
    input_ids, attention = input_ids.to(device), attention.to(device)
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]

    while rows:
        if cancelled():
            raise DecodingCancelled
        output = model(
            input_ids=input_ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        next_tokens = _choose(output.logits[:, -1, :].float(), rows)
        keep: list[int] = []
        for i, row in enumerate(rows):
            finish = _advance(row, next_tokens[i], stop_ids, tokenizer)
            if finish is None:
                keep.append(i)
            else:
                yield row.place, _finished(row, finish, tokenizer, len(prompts[row.place]))
        if not keep:
            return
        if len(keep) < len(rows):
            # Finished rows leave the batch, so that long answers do not pay for short ones.
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            attention, positions = attention[index], positions[index]
            rows = [rows[i] for i in keep]
        input_ids = torch.tensor([[row.tokens[-1]] for row in rows], device=device)
        attention = torch.cat([attention, attention.new_ones((len(rows), 1))], dim=1)
        positions = positions[:, -1:] + 1


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share (instructions and solved examples), if it pays to read them once.

    At least one token of each prompt is left to read, since the first answer token comes from it.
    """
    ordered = sorted(map(tuple, prompts))
    first, last = ordered[0], ordered[-1]
    most = min(map(len, prompts)) - 1
    shared = next((i for i in range(most) if first[i] != last[i]), most)
    return shared if len(prompts) > 1 and shared >= _SHORTEST_SHARED_PREFIX else 0


def _prefilled(model: Any, prefix: Sequence[int], rows: int, device: torch.device) -> DynamicCache:
    """A cache for `rows` rows that has read `prefix` once."""
    cache = DynamicCache()
    if prefix:
        ids = torch.tensor([list(prefix)], device=device)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(rows)
    return cache


def _choose(logits: torch.Tensor, rows: Sequence[_Row]) -> list[int]:
    """Next token ids from `logits` [rows, vocabulary] float32."""
    greedy: list[int] = logits.argmax(dim=-1).tolist()
    return [
        token if row.randomness is None else _sample(logits[i], row.sampling, row.randomness)
        for i, (row, token) in enumerate(zip(rows, greedy, strict=True))
    ]


def _sample(logits: torch.Tensor, sampling: Sampling, randomness: torch.Generator) -> int:
    """Nucleus sampling (Holtzman et al. 2020): the smallest set of tokens that holds `top_p` of the probability."""
    probabilities, ids = (logits.cpu() / sampling.temperature).softmax(dim=-1).sort(descending=True)
    outside = probabilities.cumsum(dim=-1) - probabilities >= sampling.top_p
    outside[0] = False
    probabilities[outside] = 0.0
    return int(ids[torch.multinomial(probabilities, 1, generator=randomness)].item())


def _advance(row: _Row, token: int, stop_ids: set[int], tokenizer: Any) -> FinishReason | None:
    """Take in one token; the reason if the row is finished."""
    if token in stop_ids:
        return "stop"
    row.tokens.append(token)
    if row.sampling.stop:
        text = tokenizer.decode(row.tokens, skip_special_tokens=True)
        if any(stop in text for stop in row.sampling.stop):
            return "stop"
    return "length" if len(row.tokens) >= row.sampling.max_new_tokens else None


def _finished(row: _Row, finish: FinishReason, tokenizer: Any, prompt_tokens: int) -> Decoded:
    text = tokenizer.decode(row.tokens, skip_special_tokens=True)
    for stop in row.sampling.stop:
        text = text.split(stop, 1)[0]
    return Decoded(text.strip(), prompt_tokens, len(row.tokens), finish)


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = set(configured) if isinstance(configured, list) else {configured}
    return {i for i in (*ids, tokenizer.eos_token_id) if i is not None}


def _randomness(sampling: Sampling) -> torch.Generator | None:
    if sampling.temperature < _GREEDY_BELOW:
        return None
    return torch.Generator().manual_seed(sampling.seed)
