"""Ways to adapt the base model, as PEFT configurations."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tuner.config import TuneConfig


def attach_adapter(model: Any, settings: TuneConfig, name: str) -> PeftModel:
    """Put a fresh LoRA adapter into every linear layer of `model`, seeded, in the model's own dtype.

    `lora_alpha` is twice the rank. Hu et al. 2022 (arXiv:2106.09685).
    """
    config = LoraConfig(
        r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return get_peft_model(model, config, adapter_name=name, autocast_adapter_dtype=False)


def detach_adapter(model: PeftModel) -> None:
    """Take the adapter out again: the base model is as it was."""
    model.unload()
    # PEFT leaves its configuration on the base model, and would warn about a second adapter.
    if hasattr(model.base_model.model, "peft_config"):
        del model.base_model.model.peft_config
