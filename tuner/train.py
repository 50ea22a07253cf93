"""The training loop: token-budget batches, loss only on completions, best adapter by dev score, exact resume."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from indexer.files import hash_json
from indexer.progress import Advance, progress
from tuner.base_model import BaseModel
from tuner.batches import Plan, count_tokens
from tuner.checkpoint import Checkpoint, CheckpointStore, History
from tuner.config import Tracker, TuneConfig
from tuner.examples import Row
from tuner.fast_lora import fast_lora
from tuner.interrupt import interrupt_between_steps
from tuner.lora import ADAPTER, dropping_out
from tuner.loss import batch_loss, has_plain_head
from tuner.machine import Holes, keep_freed_memory, return_freed_memory
from tuner.methods import Attachment, attach
from tuner.parallel import ALONE, Group
from tuner.recompute import recomputed_blocks
from tuner.schedule import LearningRates
from tuner.tracking import Log, tracking

log = logging.getLogger("openbook.tuner")

_SECONDS_BETWEEN_CHECKPOINTS = 60.0

DevScores = Callable[[Any], dict[str, float]]
"""Scores of the model as it is now on the dev questions; the entry `score` decides which weights are kept."""


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number; nothing was saved."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run produced: the best adapter by dev score, and how it came about."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    parameters: int
    """Numbers that were trained; what is saved of them may be fewer, or more."""
    dev_scores: dict[str, float]
    history: list[History]
    steps: int
    tokens: int
    seconds: float

    def save(self, folder: Path) -> None:
        """Write the adapter into `folder`, in PEFT's own format where PEFT has the method."""
        save_file(self.weights, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(self.config, indent=2, sort_keys=True))


def train(
    base: BaseModel,
    plan: Plan,
    settings: TuneConfig,
    dev_scores: DevScores,
    checkpoints: CheckpointStore,
    group: Group = ALONE,
) -> Trained:
    """Train one adapter over `plan`; continues from `checkpoints` if that holds this very plan.

    The processes of a `group` share every batch and end with the same weights; the first one writes checkpoints.
    Ctrl-C ends the step under way, saves a checkpoint and raises KeyboardInterrupt. Raises TrainingDivergedError,
    ParallelError, TrackerError. The base model's weights are the same before and after.
    """
    attachment = attach(base.model, settings)
    attention = base.model.config._attn_implementation
    try:
        run = _Run(base, attachment, plan, settings, dev_scores, checkpoints, group)
        tracked = settings if group.leads else settings.model_copy(update={"track": Tracker.NONE})
        with (
            fast_lora(base.model, ADAPTER),
            recomputed_blocks(base.model, settings.gradient_checkpointing),
            tracking(tracked, f"{settings.adapter}-{run.state.run}") as track,
        ):
            run.go(track)
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
        group: Group,
    ) -> None:
        self.base, self.attachment, self.plan, self.settings = base, attachment, plan, settings
        self.dev_scores, self.checkpoints, self.group = dev_scores, checkpoints, group
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
        self.holes = Holes()
        self.decoding_attention = base.model.config._attn_implementation
        has_plain_head(base.model)  # remembered: asked within a step, it would draw from that step's dropout
        self.learning_rate = LearningRates(self.optimizer, plan.facts, plan.reading, settings)
        shaping = settings.model_dump(mode="json", exclude={"general", "track"})
        self.identity = hash_json([plan.identity, shaping, base.hash, str(base.dtype)])
        self.state = Checkpoint(self.identity)
        if (found := checkpoints.load(self.identity)) is not None:
            self._restore(found)
        group.require_same(self.state.step, "the step to go on from")

    def go(self, track: Log) -> None:
        """Every step and dev check that the state has not seen yet."""
        total, state = len(self.plan.batches), self.state
        checks = self._checks()
        last_saved = time.monotonic()
        keep_freed_memory()
        console = None if self.group.leads else Console(quiet=True)
        try:
            with (
                interrupt_between_steps() as interrupted,
                progress("training", self.plan.tokens, console, state.tokens) as advance,
            ):
                while True:
                    if state.step in checks and not self._is_checked():
                        track(state.step, {f"dev_{name}": value for name, value in self._check().items()})
                        self._save()
                    if state.step >= total or state.stopped:
                        return
                    if self.group.any(interrupted()):
                        self._save()
                        self.group.meet()  # nobody goes on before the first process has written the checkpoint
                        raise KeyboardInterrupt
                    rate = self._step(self.plan.batches[state.step], advance)
                    track(state.step, {"loss": state.losses[-1], "learning_rate": rate})
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
            weights=weights,
            config=config,
            parameters=self.master.numel(),
            dev_scores=state.best_scores,
            history=state.history,
            steps=state.step,
            tokens=state.tokens,
            seconds=state.seconds,
        )

    def _step(self, batch: list[Row], advance: Advance) -> float:
        """One step of the optimiser; the learning rate that it had."""
        started = time.monotonic()
        rate = self.learning_rate(self.state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        gradient, value = self._gradient(batch)
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"the loss became {value} at step {self.state.step}, where the learning rate was {rate:.2g}; "
                f"lower tune.learning_rate (now {self.settings.learning_rate})"
            )
        self.master.grad = gradient
        nn.utils.clip_grad_norm_([self.master], self.settings.clip_norm)
        self.optimizer.step()
        self._load(self.master.detach())
        self.state.step += 1
        self.state.tokens += count_tokens(batch)
        self.state.seconds += time.monotonic() - started
        self.state.losses.append(value)
        advance(count_tokens(batch), f"loss {value:.2f}")
        self.holes.return_if_many()
        return rate

    def _gradient(self, batch: list[Row]) -> tuple[Tensor, float]:
        """Gradient of the mean loss over the completion tokens of `batch`, flat, and that loss.

        Each process of the group counts by its share of those tokens, so that the sum is what one alone would get.
        """
        share = self.group.share(batch)
        loss = self.master.new_zeros(())
        if share:
            with dropping_out(self.base.model, self._seed()):
                mean = batch_loss(self.base, self.base.model, share)
                loss = mean * (_completion_tokens(share) / _completion_tokens(batch))
                loss.backward()  # type: ignore[no-untyped-call]
        parts = [_flat_gradient(p) for p in self.parameters]
        flat = self.group.add_up(torch.cat([*parts, loss.detach().float().flatten()]))
        return flat[:-1], flat[-1].item()

    def _seed(self) -> int:
        """Of what is drawn in this step and process."""
        return random.Random(f"{self.settings.seed} {self.state.step} {self.group.rank}").getrandbits(63)

    def _checks(self) -> set[int]:
        """After which steps to score: spread over those on reading if there are any, as nothing reads before them."""
        start, total, count = self._first_checked(), len(self.plan.batches), self.settings.dev_checks
        return {start + max(1, round((total - start) * (i + 1) / count)) for i in range(count)}

    def _first_checked(self) -> int:
        return self.plan.facts if self.plan.reading else 0

    def _is_checked(self) -> bool:
        return bool(self.state.history) and self.state.history[-1].step == self.state.step

    def _check(self) -> dict[str, float]:
        """Score on dev, keep the weights if they are the best so far, stop when patience runs out."""
        state = self.state
        scores = self._score()
        recent = state.losses[state.history[-1].step if state.history else self._first_checked() :]
        state.history.append(History(state.step, state.tokens, sum(recent) / len(recent), scores))
        if not state.best_scores or scores["score"] > state.best_scores["score"]:
            state.best_scores, state.best, state.checks_without_gain = scores, self.master.detach().clone(), 0
        else:
            state.checks_without_gain += 1
            state.stopped = state.checks_without_gain >= self.settings.patience
        log.info("step %d: %s", state.step, {name: round(value, 4) for name, value in scores.items()})
        return scores

    def _score(self) -> dict[str, float]:
        return_freed_memory()
        self.base.model.config._attn_implementation = self.decoding_attention
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
        if not self.group.leads:
            return
        self.state.weights = self.master.detach()
        self.state.optimizer = dict(self.optimizer.state[self.master])
        self.checkpoints.save(self.state)

    def _restore(self, found: Checkpoint) -> None:
        self.state = found
        with torch.no_grad():
            self.master.copy_(found.weights)
        self._load(self.master.detach())
        device = self.master.device
        self.optimizer.state[self.master] = {name: t.to(device) for name, t in found.optimizer.items()}
        log.info("continuing at step %d of %d", found.step, len(self.plan.batches))


def _flat_gradient(parameter: Tensor) -> Tensor:
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient.float().flatten()


def _completion_tokens(batch: list[Row]) -> int:
    return sum(len(row.completion) for row in batch)
