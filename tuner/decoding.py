"""Batched decoding of prompts, greedy or sampled, used for dev scores in training and for serving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from tuner.kv_cache import Prefix, token_bytes
from tuner.reader import Reader
from tuner.sampling import log_probabilities, sample, seeded

FinishReason = Literal["stop", "length"]

_BATCH_TOKENS, _BATCH_BYTES = 8192, 512 * 1024 * 1024
_FEWEST_JOINING = 8
"""Fewer rows wait for more room while more than that are running: every reading holds these up."""


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
    ignore_eos: bool = False
    """Go on where the model would end, up to `max_new_tokens` or a stop string."""
    logprobs: int | None = None
    """How many of the likeliest tokens to report at every place beside the chosen one; None reports nothing."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token with its natural log-probability, and the likeliest `(token id, logprob)`, best first."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One continuation, stripped of white space and of its stop string."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for every token, if asked for; also for those of a stop string, which `text` leaves out."""


@dataclass(slots=True, eq=False)
class Row:
    """One running prompt: set `cancelled` to have it leave the batch before the next token."""

    prompt: Sequence[int]
    sampling: Sampling
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    cancelled: bool = False


def decode(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sequence[Sampling],
    max_batch_tokens: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Decoded]:
    """Continue every prompt; results stand in the order of the prompts, however they were batched.

    Rows join as others leave. Without `max_batch_tokens`, keys and values under way take half a gigabyte
    or 8,192 tokens, whichever is more. Raises DecodingCancelled between two tokens once `cancelled()` is true.
    """
    rows = [Row(prompt, how) for prompt, how in zip(prompts, sampling, strict=True)]
    waiting = sorted(rows, key=lambda row: len(row.prompt))  # those of similar length run together
    most = max_batch_tokens or max(_BATCH_TOKENS, _BATCH_BYTES // token_bytes(model))
    batch = RunningBatch(model, tokenizer)
    start = batch.common_start(prompts)
    while waiting or batch.rows:
        if cancelled():
            raise DecodingCancelled
        room = _room(waiting, batch.rows, most)
        if room and room >= min(_FEWEST_JOINING, len(waiting), len(batch.rows)):
            batch.admit(waiting[:room], start)
            waiting = waiting[room:]
        batch.step()
    return [finished(row, tokenizer) for row in rows]


class RunningBatch:
    """Prompts that are continued together, one token each a step; rows join and leave between steps."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._tokenizer = tokenizer
        self._stop_ids = _stop_ids(model, tokenizer)
        self._randomness: dict[Row, torch.Generator | None] = {}
        self._reader = Reader(model, tokenizer.pad_token_id)

    @torch.inference_mode()
    def common_start(self, prompts: Sequence[Sequence[int]]) -> Prefix | None:
        """What all prompts begin with, read, if it pays to read that once."""
        return self._reader.common_start(prompts)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row], prefix: Prefix | None = None, keep: int = 0) -> Prefix | None:
        """Read the prompts of `rows` and choose their first tokens; the rows then belong to the batch.

        All prompts start with `prefix` if one is given, and go on after it. With `keep`, that many leading
        tokens of the first prompt are returned as a prefix for later ones.
        """
        joining = RunningBatch(self._model, self._tokenizer)
        joining.rows = list(rows)
        joining._randomness = {row: seeded(row.sampling.temperature, row.sampling.seed) for row in rows}
        prompts = [row.prompt for row in rows]
        logits = joining._reader.read(prompts, prefix or joining._reader.common_start(prompts))
        kept = joining._reader.prefix(rows[0].prompt[:keep]) if keep else None
        joining._take(logits)
        self._join(joining)
        return kept

    @torch.inference_mode()
    def drop_cancelled(self) -> None:
        """Let the rows leave that nobody waits for."""
        self._keep([i for i, row in enumerate(self.rows) if not row.cancelled])

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every row; those finished or cancelled leave."""
        self.drop_cancelled()
        if self.rows:
            self._take(self._reader.read_on([row.tokens[-1] for row in self.rows]))

    def _take(self, logits: torch.Tensor) -> None:
        """Choose a token for every row; rows that are finished by it leave, so that nobody pays for them."""
        greedy: list[int] = logits.argmax(dim=-1).tolist()
        for i, row in enumerate(self.rows):
            randomness, how = self._randomness[row], row.sampling
            token = (
                greedy[i] if randomness is None else sample(logits[i], how.temperature, how.top_p, randomness)
            )
            row.finish = _advance(row, token, self._stop_ids, self._tokenizer)
            if how.logprobs is not None and len(row.logprobs) < len(row.tokens):
                logprob, likeliest = log_probabilities(logits[i], token, how.logprobs)
                row.logprobs.append(TokenLogprob(token, logprob, tuple(likeliest)))
        self._keep([i for i, row in enumerate(self.rows) if row.finish is None])

    def _keep(self, places: list[int]) -> None:
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in places]
        self._randomness = {row: self._randomness[row] for row in self.rows}
        self._reader.keep(places)

    def _join(self, other: RunningBatch) -> None:
        """Take over the rows of `other`."""
        if other.rows:
            self._reader.join(other._reader)
            self.rows += other.rows
            self._randomness |= other._randomness


def finished(row: Row, tokenizer: Any) -> Decoded:
    """What became of a row that has ended."""
    text = tokenizer.decode(row.tokens, skip_special_tokens=True)
    for stop in row.sampling.stop:
        text = text.split(stop, 1)[0]
    return Decoded(
        text.strip(), len(row.prompt), len(row.tokens), row.finish or "length", tuple(row.logprobs)
    )


def text_so_far(row: Row, tokenizer: Any) -> str:
    """The start of the text of a running row that no later token can change.

    White space at its end, half a character, and what may become a stop string are held back.
    """
    text = tokenizer.decode(row.tokens, skip_special_tokens=True).rstrip("\ufffd")
    longest = max(map(len, row.sampling.stop), default=1)
    held = next(
        (
            n
            for n in range(min(longest - 1, len(text)), 0, -1)
            if text.endswith(_starts(row.sampling.stop, n))
        ),
        0,
    )
    return str(text[: len(text) - held]).strip()


def _starts(stops: Sequence[str], length: int) -> tuple[str, ...]:
    return tuple(stop[:length] for stop in stops if len(stop) > length)


def _room(waiting: Sequence[Row], running: Sequence[Row], max_batch_tokens: int) -> int:
    """How many of the first of `waiting` may join, all as wide as the widest; one at least if none is running."""
    width = max(map(_width, running), default=0)
    for room, row in enumerate(waiting):
        width = max(width, _width(row))
        if (len(running) + room + 1) * width > max_batch_tokens:
            return room or int(not running)
    return len(waiting)


def _width(row: Row) -> int:
    """Tokens that the row may come to."""
    return len(row.prompt) + row.sampling.max_new_tokens


def _advance(row: Row, token: int, stop_ids: set[int], tokenizer: Any) -> FinishReason | None:
    """Take in one token; the reason if the row is finished."""
    if token in stop_ids and not row.sampling.ignore_eos:
        return "stop"
    row.tokens.append(token)
    if row.sampling.stop:
        text = tokenizer.decode(row.tokens, skip_special_tokens=True)
        if any(stop in text for stop in row.sampling.stop):
            return "stop"
    return "length" if len(row.tokens) >= row.sampling.max_new_tokens else None


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = set(configured) if isinstance(configured, list) else {configured}
    return {i for i in (*ids, tokenizer.eos_token_id) if i is not None}
