"""Ways to adapt the base model, by name; each puts something into the resident model and takes it out again."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tuner.config import Method, TuneConfig
from tuner.ia3 import Ia3
from tuner.lora import Lora, Pissa
from tuner.soft_prefix import PrefixTuning, PromptEncoding, PromptTuning
from tuner.swapping import SwappedTensors, last_block_names


class MethodError(ValueError):
    """A method that this base model cannot be adapted by; the message names both and the remedy."""


_NEED_PLAIN_WEIGHTS = (Method.PISSA, Method.LAST_LAYER, Method.FULL)


class Attachment(Protocol):
    """Something trainable inside the base model: until `detach`, the base model computes with it."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        ...

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and configuration as written to disk, in PEFT's format where PEFT has the method."""
        ...

    def detach(self) -> None:
        """Make the base model what it was."""
        ...


def attach(model: Any, settings: TuneConfig) -> Attachment:
    """Put a fresh, seeded adapter of `settings.method` into the plain causal model. Raises MethodError."""
    if getattr(model, "is_quantized", False) and settings.method in _NEED_PLAIN_WEIGHTS:
        raise MethodError(
            f"method {settings.method!r} needs the base model's plain weights, which are quantised here; "
            'use method "lora", or set model.dtype to "bfloat16"'
        )
    if settings.loftq and not getattr(model, "is_loaded_in_4bit", False):
        raise MethodError(
            'tune.loftq makes good for the rounding of a 4-bit base model; set model.dtype = "4bit" (that needs a CUDA '
            "GPU), or leave tune.loftq out"
        )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        try:
            return _attach(model, settings)
        except ValueError as error:
            raise MethodError(
                f"method {settings.method!r} does not fit base model type {model.config.model_type!r}: {error}"
            ) from error


def _attach(model: Any, settings: TuneConfig) -> Attachment:
    match settings.method:
        case Method.LORA | Method.DORA | Method.RSLORA:
            return Lora(model, settings)
        case Method.PISSA:
            return Pissa(model, settings)
        case Method.IA3:
            return Ia3.fresh(model)
        case Method.PROMPT_TUNING:
            return PromptTuning(model, settings.virtual_tokens)
        case Method.P_TUNING:
            return PromptEncoding(model, settings.virtual_tokens)
        case Method.PREFIX_TUNING:
            return PrefixTuning(model, settings.virtual_tokens)
        case Method.LAST_LAYER:
            return SwappedTensors.fresh(model, last_block_names(model), Method.LAST_LAYER)
        case Method.FULL:
            return SwappedTensors.fresh(model, None, Method.FULL)
