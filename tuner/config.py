"""The `[tune]` section of openbook.toml."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TuneConfig(BaseModel):
    """How the adapter is trained; every figure that shapes the result is recorded in its manifest."""

    model_config = ConfigDict(extra="forbid")

    adapter: str = "mixed"
    recipe: Literal["mixed", "closed-book", "open-book"] = "mixed"
    seed: int = 0

    document_passes: int = Field(default=4, ge=0)
    cloze_passes: int = Field(default=4, ge=0)
    closed_book_passes: int = Field(default=4, ge=0)
    open_book_passes: int = Field(default=2, ge=0)
    gold_present: float = Field(default=0.8, ge=0.0, le=1.0)
    abstention_share: float = Field(default=0.1, ge=0.0, le=0.5)
    contexts: int = Field(default=3, ge=1, le=10)

    rank: int = Field(default=32, ge=1, le=256)
    learning_rate: float = Field(default=6e-4, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    tokens_per_step: int = Field(default=2048, ge=64)
    dev_contexts: tuple[int, ...] = (0, 2)
    """Passages shown when the dev questions are scored; 0 is closed book. The best mean score is kept."""
    dev_checks: int = Field(default=3, ge=1)
    patience: int = Field(default=2, ge=1)
