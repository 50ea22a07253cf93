"""PEFT's configurations as the JSON that PEFT itself would write."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig


def as_json(config: PeftConfig) -> dict[str, Any]:
    """The content of `adapter_config.json`, for inference."""
    fields = {**config.to_dict(), "inference_mode": True}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}
