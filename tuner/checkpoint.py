"""Checkpoints of a training run: weights, optimiser and progress, in safetensors and JSON."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from indexer.files import fsync_files, fsync_folder

log = logging.getLogger("openbook.tuner")


@dataclass(frozen=True, slots=True)
class History:
    """One dev check: mean training loss since the last one (the first: since dev is checked at all), and the scores."""

    step: int
    tokens: int
    loss: float
    scores: dict[str, float]


@dataclass(slots=True)
class Checkpoint:
    """The whole state of a run after `step` optimiser steps; `identity` names plan, settings and base model."""

    identity: str
    run: str = field(default_factory=lambda: uuid4().hex[:12])
    """Tells it from other runs of the same identity, as `--force` makes them."""
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    stopped: bool = False
    checks_without_gain: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[History] = field(default_factory=list)
    best_scores: dict[str, float] = field(default_factory=dict)
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    """All trained weights as one flat float32 tensor, in the order of the model's parameters."""
    best: Tensor | None = None
    optimizer: dict[str, Tensor] = field(default_factory=dict)


_TENSOR_FIELDS = ("weights", "best", "optimizer")


class CheckpointStore:
    """The last checkpoint of one run, replaced in one rename."""

    def __init__(self, folder: Path, judge: str = "") -> None:
        """`judge` names what chooses the best weights: those of another are not continued."""
        self.folder, self._judge = folder, judge

    def save(self, checkpoint: Checkpoint) -> None:
        """Write aside and swap; a full disk or a kill leaves the previous checkpoint in place."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent))
        try:
            tensors = {"weights": checkpoint.weights}
            if checkpoint.best is not None:
                tensors["best"] = checkpoint.best
            tensors |= {f"optimizer/{key}": tensor for key, tensor in checkpoint.optimizer.items()}
            save_file(tensors, aside / "state.safetensors")
            plain = {k: getattr(checkpoint, k) for k in checkpoint.__slots__ if k not in _TENSOR_FIELDS}
            plain["history"] = [asdict(h) for h in checkpoint.history]
            (aside / "state.json").write_text(json.dumps({**plain, "judge": self._judge}))
            fsync_files(aside)
            old = self._old()
            if self.folder.exists():  # else the old one is the last, from a kill between the renames
                shutil.rmtree(old, ignore_errors=True)
                self.folder.rename(old)
            aside.rename(self.folder)
            fsync_folder(self.folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        except SafetensorError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise OSError(
                f"cannot write a checkpoint to {self.folder}: {error}; the last one is kept"
            ) from error
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def load(self, identity: str) -> Checkpoint | None:
        """The checkpoint of exactly this run, or None."""
        for left in self.folder.parent.glob(f".{self.folder.name}.{'?' * 8}"):
            shutil.rmtree(left, ignore_errors=True)  # written aside by a process that was killed
        folder = self.folder if self.folder.exists() else self._old()
        if not (folder / "state.json").is_file():
            return None
        try:
            plain = json.loads((folder / "state.json").read_text())
            tensors = load_file(folder / "state.safetensors")
        except (OSError, ValueError, SafetensorError):
            log.warning("the checkpoint in %s is damaged; training starts anew", folder)
            return None
        if (plain["identity"], plain.pop("judge", None)) != (identity, self._judge):
            return None
        plain["history"] = [History(**h) for h in plain["history"]]
        checkpoint = Checkpoint(**plain)
        checkpoint.weights, checkpoint.best = tensors.pop("weights"), tensors.pop("best", None)
        checkpoint.optimizer = {name.removeprefix("optimizer/"): tensor for name, tensor in tensors.items()}
        return checkpoint

    def clear(self) -> None:
        """Forget the run; its adapter is in the registry."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._old(), ignore_errors=True)

    def _old(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.old")
