"""The `[tune]` section of openbook.toml."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Method(StrEnum):
    """Which weights are trained, and where they enter the base model."""

    LORA = "lora"
    DORA = "dora"
    RSLORA = "rslora"
    PISSA = "pissa"
    IA3 = "ia3"
    PROMPT_TUNING = "prompt-tuning"
    P_TUNING = "p-tuning"
    PREFIX_TUNING = "prefix-tuning"
    LAST_LAYER = "last-layer"
    FULL = "full"


class Schedule(StrEnum):
    """How the learning rate falls after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Tracker(StrEnum):
    """Where the course of training is shown."""

    NONE = "none"
    TRACKIO = "trackio"
    WANDB = "wandb"
    MLFLOW = "mlflow"


LEARNING_RATES: Mapping[Method, float] = MappingProxyType(
    {
        Method.LORA: 1e-3,
        Method.DORA: 1e-3,
        Method.RSLORA: 1e-3,
        Method.PISSA: 5e-4,
        Method.IA3: 1e-2,
        Method.PROMPT_TUNING: 3e-2,
        Method.P_TUNING: 1e-3,
        Method.PREFIX_TUNING: 1e-2,
        Method.LAST_LAYER: 3e-4,
        Method.FULL: 1e-4,
    }
)
"""What a method gets unless the settings say otherwise: the fewer and further from the data, the larger."""


def _usual_rate(given: dict[str, Any]) -> float:
    return LEARNING_RATES[given.get("method", Method.LORA)]


def _usual_share(given: dict[str, Any]) -> float:
    """Of the learning rate, for reading; 0.2 was measured with `lora` and its like only."""
    return 0.2 if given.get("method", Method.LORA) in (Method.LORA, Method.DORA, Method.RSLORA) else 0.1


class SynthesisConfig(BaseModel):
    """A language model that writes more phrasings of what the documents say, behind an OpenAI-compatible endpoint."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str
    """Up to and with `/v1`."""
    model: str
    """As the endpoint calls it."""
    api_key_env: str = "OPENBOOK_SYNTHESIS_KEY"
    """Environment variable that holds the key, if the endpoint wants one."""
    paraphrases: int = Field(default=3, ge=0, le=20)
    """Other wordings of every train question."""
    questions: int = Field(default=3, ge=0, le=20)
    """New questions about every chunk; kept are those whose answer the model finds again in the chunk."""
    statements: int = Field(default=2, ge=0, le=20)
    """Sentences for every chunk that say the same in other words or follow from it."""
    max_tokens: int = Field(default=1_000_000, ge=1)
    """Most tokens, asked and answered, that one run may use; replies kept from earlier runs cost nothing."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Requests under way at once."""


class TuneConfig(BaseModel):
    """How the adapter is trained; every figure that shapes the result is recorded in its manifest."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    adapter: str = Field(default="mixed", pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    """Name of the adapter; every training run adds a version."""
    recipe: Literal["mixed", "closed-book", "open-book"] = "mixed"
    """Which rows are trained on: without passages, with passages, or both in one adapter."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides initial weights, drawn passages, renderings and the order of rows."""

    document_passes: int = Field(default=4, ge=0)
    """Times that every chunk is read as plain text, half of them with its sentences in another order."""
    cloze_passes: int = Field(default=0, ge=0)
    """Times that up to four sentences of every chunk are asked with a name, number or code blanked out."""
    section_passes: int = Field(default=0, ge=0)
    """Times that every chunk is asked for by its title and heading."""
    pattern_passes: int = Field(default=0, ge=0)
    """Times that questions made from simple sentences are asked, forward ("Who is A?") and in reverse ("Who is B?")."""
    closed_book_passes: int = Field(default=3, ge=0)
    """Times that every train question is asked without passages; in the mixed recipe once of these among the
    open-book rows."""
    open_book_passes: int = Field(default=1, ge=0)
    """Times that every train question is asked with passages; distractors, if any, are drawn anew each time."""
    gold_present: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of open-book rows that show the passage with the answer."""
    abstention_share: float = Field(default=0.1, ge=0.0, le=0.5)
    """Most that questions without an answer may be of the open-book rows."""
    replay: Path | None = None
    """A `.jsonl` of general texts (`{"text": …}`), relative to openbook.toml, to be read between the documents, so that
    less is forgotten."""
    replay_share: float = Field(default=0.1, ge=0.0, le=0.9)
    """Share of the rows that are such texts, if there are enough of them."""
    contexts: int = Field(default=1, ge=1, le=10)
    """An open-book row shows one to this many passages."""

    method: Method = Method.LORA
    """`lora`, `dora`, `rslora`, `pissa`, `ia3`, `prompt-tuning`, `p-tuning`, `prefix-tuning`, `last-layer`, `full`."""
    synthesis: SynthesisConfig | None = None
    """`[tune.synthesis]`, a table: `url` and `model` of an OpenAI-compatible endpoint, and what to have it write."""

    rank: int = Field(default=32, ge=1, le=256)
    """Of the LoRA matrices; `lora_alpha` is twice the rank, with `rslora` 16."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of what the LoRA matrices read while they are trained: `lora`, `dora` and `rslora` only, and slower than none."""
    loftq: bool = False
    """Start `lora` such that it makes good for the rounding of a `4bit` base model (LoftQ)."""
    virtual_tokens: int = Field(default=20, ge=1, le=512)
    """Of prompt tuning, p-tuning and prefix tuning: learned tokens before every prompt."""
    learning_rate: float = Field(default_factory=_usual_rate, gt=0)
    """At its peak, after the warm-up. The default is that of `lora`; other methods have their own."""
    open_book_rate: float = Field(default_factory=_usual_share, gt=0, le=10)
    """Learning rate of the open-book rows, which come after all others, as a share of `learning_rate`. The default is
    that of `lora`, `dora` and `rslora`; it is 0.1 with other methods."""
    schedule: Schedule = Schedule.COSINE
    """How the learning rate falls after the warm-up: along a `cosine` to a tenth, `linear` to nothing, or not at all
    (`constant`)."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises, of those on facts and of those on reading alike."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Greatest norm of a step's gradient."""
    tokens_per_step: int = Field(default=1536, ge=64)
    """Padded tokens in a batch, shared by all processes; bounds memory."""
    gradient_checkpointing: bool = False
    """Keep less of the forward pass and compute it again: less memory, about a third more time."""
    dev_contexts: tuple[Annotated[int, Field(ge=0, le=20)], ...] = Field(default=(0, 1), min_length=1)
    """Passages shown when the dev questions are scored; 0 is closed book. The best mean score is kept."""
    dev_checks: int = Field(default=2, ge=1)
    """Times that the dev questions are scored, evenly spread over the steps on open-book rows, if there are any."""
    general: Path | None = None
    """General multiple-choice questions, of which an adapter may lose 2 points at most to be promoted: `bundled`, or a
    `.jsonl` as `openbook eval forgetting` reads, relative to openbook.toml."""
    patience: int = Field(default=2, ge=1)
    """Checks without a better score after which training stops."""
    track: Tracker = Tracker.NONE
    """Where to show loss, learning rate and dev scores: `none`, `trackio`, `wandb` or `mlflow`; never any text."""

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        if self.dropout and self.method not in (Method.LORA, Method.DORA, Method.RSLORA):
            raise ValueError(
                f'dropout = {self.dropout} is for lora, dora and rslora, not for "{self.method}"'
            )
        if self.loftq and self.method is not Method.LORA:
            raise ValueError(f'loftq is for method lora, not for "{self.method}"')
        return self
