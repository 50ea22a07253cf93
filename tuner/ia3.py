"""(IA)3: learned vectors that scale keys, values and the inner activations of the feed-forward layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import IA3Config
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tuner.peft_format import as_json


class Ia3:
    """Liu et al. 2022 (arXiv:2205.05638), as hooks: PEFT's own layers cannot stand beside LoRA's in one model."""

    def __init__(
        self, model: Any, vectors: Mapping[str, nn.Parameter], targets: list[str], feedforward: list[str]
    ) -> None:
        """`vectors` by module name: one entry for each output, or each input of a feed-forward module."""
        self._vectors = dict(vectors)
        self._base = str(model.name_or_path)
        self._targets, self._feedforward = targets, feedforward
        self._hooks: list[RemovableHandle] = []
        for name, vector in self._vectors.items():
            module = model.get_submodule(name)
            if _is_one_of(name, feedforward):
                self._hooks.append(module.register_forward_pre_hook(_ScaleInput(vector)))
            else:
                self._hooks.append(module.register_forward_hook(_ScaleOutput(vector)))

    @classmethod
    def fresh(cls, model: Any) -> Ia3:
        """All ones: the base model's own function. Raises ValueError for an unknown architecture."""
        kind = model.config.model_type
        if kind not in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
            raise ValueError("PEFT does not know which of its layers to scale; use lora")
        targets = sorted(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[kind])
        feedforward = sorted(TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[kind])
        vectors = {}
        for name, module in model.named_modules():
            if _is_one_of(name, targets):
                size = module.in_features if _is_one_of(name, feedforward) else module.out_features
                vectors[name] = nn.Parameter(torch.ones(size, dtype=model.dtype, device=module.weight.device))
        return cls(model, vectors, targets, feedforward)

    @classmethod
    def loaded(cls, model: Any, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Ia3:
        """From PEFT's files."""
        vectors = {
            key.removeprefix("base_model.model.").removesuffix(".ia3_l"): nn.Parameter(
                tensor.flatten().to(model.device, model.dtype), requires_grad=False
            )
            for key, tensor in tensors.items()
        }
        return cls(model, vectors, list(config["target_modules"]), list(config["feedforward_modules"]))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self._vectors.values())

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """In PEFT's format: a column for outputs, a row for inputs."""
        tensors = {}
        for name, vector in self._vectors.items():
            shape = (1, -1) if _is_one_of(name, self._feedforward) else (-1, 1)
            tensors[f"base_model.model.{name}.ia3_l"] = vector.detach().cpu().clone().view(shape)
        config = IA3Config(
            target_modules=self._targets,
            feedforward_modules=self._feedforward,
            task_type="CAUSAL_LM",
            base_model_name_or_path=self._base,
        )
        return tensors, as_json(config)

    @torch.no_grad()
    def fold_in(self, model: Any) -> None:
        """Scale the weights themselves, and hook no more."""
        self.detach()
        for name, vector in self._vectors.items():
            module = model.get_submodule(name)
            if _is_one_of(name, self._feedforward):
                module.weight.mul_(vector)
                continue
            module.weight.mul_(vector[:, None])
            if module.bias is not None:
                module.bias.mul_(vector)

    def detach(self) -> None:
        """Scale no more."""
        for hook in self._hooks:
            hook.remove()


class _ScaleInput:
    def __init__(self, vector: Tensor) -> None:
        self.vector = vector

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * self.vector, *inputs[1:])


class _ScaleOutput:
    def __init__(self, vector: Tensor) -> None:
        self.vector = vector

    def __call__(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * self.vector


def _is_one_of(name: str, endings: list[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)
