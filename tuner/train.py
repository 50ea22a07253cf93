"""The training loop: token-budget batches, loss only on completions, best adapter by dev score, exact resume."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from indexer.files import hash_json
from indexer.progress import Advance, progress
from tuner.base_model import BaseModel
from tuner.checkpoint import Checkpoint, CheckpointStore, History
from tuner.config import TuneConfig
from tuner.examples import Row
from tuner.fast_lora import fast_lora
from tuner.interrupt import interrupt_between_steps
from tuner.lora import ADAPTER
from tuner.loss import frozen_head_loss, has_plain_head
from tuner.machine import keep_freed_memory, return_freed_memory, return_holes
from tuner.methods import Attachment, attach

log = logging.getLogger("openbook.tuner")

_ROWS_IN_WINDOW = 512
_EAGER_ATTENTION_BELOW = 192
_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_STEPS_BETWEEN_RETURNS = 10

DevScores = Callable[[Any], dict[str, float]]
"""Scores of the model as it is now on the dev questions; the entry `score` decides which weights are kept."""


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number; nothing was saved."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run produced: the best adapter by dev score, and how it came about."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    dev_scores: dict[str, float]
    history: list[History]
    steps: int
    tokens: int
    seconds: float

    def save(self, folder: Path) -> None:
        """Write the adapter into `folder`, in PEFT's own format where PEFT has the method."""
        save_file(self.weights, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(self.config, indent=2, sort_keys=True))


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of a whole run, in order; a pure function of rows, settings and seed."""

    batches: list[list[Row]]

    @property
    def tokens(self) -> int:
        """Real tokens, without padding."""
        return sum(len(row) for batch in self.batches for row in batch)

    @property
    def identity(self) -> str:
        """Hash of every token in order: a checkpoint is continued only on the very same plan."""
        return hash_json([[[row.prompt, row.completion] for row in batch] for batch in self.batches])


def plan_batches(rows: Sequence[Row], settings: TuneConfig) -> Plan:
    """Shuffle all rows, then group those of similar length within windows of the shuffled order.

    So little of a batch is padding, and yet kinds and lengths alternate. One run with facts first and answering
    afterwards read worse on dev; as its passages and learning rate differed too, that is a hint, not a finding.
    """
    randomness = random.Random(settings.seed)
    shuffled = list(rows)
    randomness.shuffle(shuffled)
    batches: list[list[Row]] = []
    for start in range(0, len(shuffled), _ROWS_IN_WINDOW):
        window = sorted(shuffled[start : start + _ROWS_IN_WINDOW], key=len)
        cut = list(_cut(window, settings.tokens_per_step))
        randomness.shuffle(cut)
        batches.extend(cut)
    return Plan(batches)


def train(
    base: BaseModel,
    plan: Plan,
    settings: TuneConfig,
    dev_scores: DevScores,
    checkpoints: CheckpointStore,
) -> Trained:
    """Train one adapter over `plan`; continues from `checkpoints` if that holds this very plan.

    Ctrl-C ends the step under way, saves a checkpoint and raises KeyboardInterrupt. Raises TrainingDivergedError.
    The base model's weights are the same before and after.
    """
    attachment = attach(base.model, settings)
    attention = base.model.config._attn_implementation
    try:
        run = _Run(base, attachment, plan, settings, dev_scores, checkpoints)
        with fast_lora(base.model, ADAPTER):
            run.go()
        return run.finished()
    finally:
        base.model.config._attn_implementation = attention
        attachment.detach()


class _Run:
    def __init__(
        self,
        base: BaseModel,
        attachment: Attachment,
        plan: Plan,
        settings: TuneConfig,
        dev_scores: DevScores,
        checkpoints: CheckpointStore,
    ) -> None:
        self.base, self.attachment, self.plan, self.settings = base, attachment, plan, settings
        self.dev_scores, self.checkpoints = dev_scores, checkpoints
        self.parameters = attachment.parameters
        # bfloat16 steps of a small learning rate would be rounded away, so the optimiser works on a float32 copy;
        # one flat tensor, because hundreds of small ones cost more in calls than in arithmetic.
        self.master = nn.Parameter(torch.cat([p.detach().float().flatten() for p in self.parameters]))
        self.optimizer = torch.optim.AdamW(
            [self.master],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.99),
            fused=True,
        )
        self.identity = hash_json(
            [plan.identity, settings.model_dump(mode="json"), base.hash, str(base.dtype)]
        )
        self.state = Checkpoint(self.identity)
        if (found := checkpoints.load(self.identity)) is not None:
            self._restore(found)

    def go(self) -> None:
        """Every step and dev check that the state has not seen yet."""
        total, state = len(self.plan.batches), self.state
        checks = {
            max(1, round(total * (i + 1) / self.settings.dev_checks)) for i in range(self.settings.dev_checks)
        }
        last_saved = time.monotonic()
        keep_freed_memory()
        try:
            with (
                interrupt_between_steps() as interrupted,
                progress("training", sum(map(_size, self.plan.batches))) as advance,
            ):
                advance(sum(map(_size, self.plan.batches[: state.step])))
                while True:
                    if state.step in checks and not self._is_checked():
                        self._check()
                        self._save()
                    if state.step >= total or state.stopped:
                        return
                    if interrupted():
                        self._save()
                        raise KeyboardInterrupt
                    self._step(self.plan.batches[state.step], advance)
                    if time.monotonic() - last_saved > _SECONDS_BETWEEN_CHECKPOINTS:
                        self._save()
                        last_saved = time.monotonic()
        finally:
            return_freed_memory()

    def finished(self) -> Trained:
        """The best weights, copied out: the adapter is about to be detached from the base model."""
        self._load(self.state.best if self.state.best is not None else self.master.detach())
        weights, config = self.attachment.saved()
        state = self.state
        return Trained(
            weights, config, state.best_scores, state.history, state.step, state.tokens, state.seconds
        )

    def _step(self, batch: list[Row], advance: Advance) -> None:
        started = time.monotonic()
        if self.state.step % _STEPS_BETWEEN_RETURNS == 0:
            return_holes()
        rate = _learning_rate(self.state.step, len(self.plan.batches), self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = batch_loss(self.base, self.base.model, batch)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"the loss became {value} at step {self.state.step}; lower tune.learning_rate "
                f"(now {self.settings.learning_rate})"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.master.grad = torch.cat([_gradient(p).float().flatten() for p in self.parameters])
        nn.utils.clip_grad_norm_([self.master], self.settings.clip_norm)
        self.optimizer.step()
        self._load(self.master.detach())
        self.state.step += 1
        self.state.tokens += _size(batch)
        self.state.seconds += time.monotonic() - started
        self.state.losses.append(value)
        advance(_size(batch), f"loss {value:.2f}")

    def _is_checked(self) -> bool:
        return bool(self.state.history) and self.state.history[-1].step == self.state.step

    def _check(self) -> None:
        """Score on dev, keep the weights if they are the best so far, stop when patience runs out."""
        state = self.state
        scores = self._score()
        recent = state.losses[
            len(state.losses) - max(1, len(self.plan.batches) // self.settings.dev_checks) :
        ]
        state.history.append(History(state.step, state.tokens, sum(recent) / len(recent), scores))
        if not state.best_scores or scores["score"] > state.best_scores["score"]:
            state.best_scores, state.best, state.checks_without_gain = scores, self.master.detach().clone(), 0
        else:
            state.checks_without_gain += 1
            state.stopped = state.checks_without_gain >= self.settings.patience
        log.info("step %d: %s", state.step, {name: round(value, 4) for name, value in scores.items()})

    def _score(self) -> dict[str, float]:
        return_freed_memory()
        self.base.model.config._attn_implementation = "sdpa"
        scores = self.dev_scores(self.base.model)
        keep_freed_memory()
        return scores

    def _load(self, flat: Tensor) -> None:
        """Put flat float32 weights into the model."""
        with torch.no_grad():
            pieces = torch.split(flat, [p.numel() for p in self.parameters])
            for parameter, piece in zip(self.parameters, pieces, strict=True):
                parameter.copy_(piece.view_as(parameter))
                parameter.grad = None

    def _save(self) -> None:
        self.state.weights = self.master.detach()
        self.state.optimizer = dict(self.optimizer.state[self.master])
        self.checkpoints.save(self.state)

    def _restore(self, found: Checkpoint) -> None:
        self.state = found
        with torch.no_grad():
            self.master.copy_(found.weights)
        self._load(found.weights)
        self.optimizer.state[self.master] = dict(found.optimizer)
        log.info("continuing at step %d of %d", found.step, len(self.plan.batches))


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
    # Eager attention beats the fused CPU kernel's backward on short rows; the fused one needs no T x T mask.
    model.config._attn_implementation = (
        "eager" if base.device.type == "cpu" and width < _EAGER_ATTENTION_BELOW else "sdpa"
    )
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


def _cut(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Batches of rows (sorted by length) whose padded size stays within `tokens`."""
    batch: list[Row] = []
    for row in rows:
        if batch and len(row) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _learning_rate(step: int, total: int, settings: TuneConfig) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    warm = max(1, round(total * settings.warmup))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    return settings.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _size(batch: Sequence[Row]) -> int:
    return sum(len(row) for row in batch)
