"""Tensors of the base model exchanged for trained ones: the last block, or all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn


class SwappedTensors:
    """Holds the base model's own parameters while others stand in their places.

    A parameter that several modules share (tied embeddings) is exchanged in all of them. Names are those of the plain
    model, also while PEFT's layers wrap some of its modules.
    """

    def __init__(self, model: Any, trained: Mapping[str, nn.Parameter], method: str) -> None:
        """Raises ValueError if the model has no parameter of a given name or it has another shape."""
        places = _places(model)
        for name, parameter in trained.items():
            if name not in places:
                raise ValueError(f"the base model has no tensor {name!r}")
            if (mine := _parameter(places[name][0])).shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(parameter.shape)}, in the base model {tuple(mine.shape)}")
        self._trained = dict(trained)
        self._method = method
        self._own = [(place, _parameter(place)) for name in trained for place in places[name]]
        for name, parameter in trained.items():
            for module, attribute in places[name]:
                module._parameters[attribute] = parameter

    @classmethod
    def fresh(cls, model: Any, names: Collection[str] | None, method: str) -> SwappedTensors:
        """Trainable copies of the named tensors, or of all."""
        copies = {
            name: nn.Parameter(_parameter(places[0]).detach().clone())
            for name, places in _places(model).items()
            if names is None or name in names
        }
        return cls(model, copies, method)

    @classmethod
    def loaded(cls, model: Any, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> SwappedTensors:
        """From saved files."""
        moved = {
            name: nn.Parameter(tensor.to(model.device, model.dtype), requires_grad=False)
            for name, tensor in tensors.items()
        }
        return cls(model, moved, config["method"])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self._trained.values())

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors under the base model's own names; PEFT has no format for this."""
        tensors = {name: p.detach().cpu().clone().contiguous() for name, p in self._trained.items()}
        return tensors, {"method": str(self._method)}

    def detach(self) -> None:
        """Put the base model's own parameters back."""
        for (module, attribute), parameter in self._own:
            module._parameters[attribute] = parameter


def last_block_names(model: Any) -> set[str]:
    """Names of the tensors of the final transformer block."""
    name, blocks = find_blocks(model)
    prefix = f"{model.base_model_prefix}.{name}.{len(blocks) - 1}."
    return {name for name in _places(model) if name.startswith(prefix)}


def find_blocks(model: Any) -> tuple[str, nn.ModuleList]:
    """The transformer blocks, and what the decoder calls their list."""
    children = getattr(model, model.base_model_prefix).named_children()
    lists = [(name, module) for name, module in children if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda child: len(child[1]))


_Place = tuple[nn.Module, str]


def _places(model: Any) -> dict[str, list[_Place]]:
    """Where each distinct parameter of the plain model stands, by the first of its names."""
    found: dict[int, tuple[str, list[_Place]]] = {}
    for name, module, attribute, parameter in _named(model):
        found.setdefault(id(parameter), (name, []))[1].append((module, attribute))
    return dict(found.values())


def _named(model: Any) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    for path, module in model.named_modules():
        if "lora_" in path:
            continue
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{attribute}".replace(".base_layer.", ".")
                yield name, module, attribute, parameter


def _parameter(place: _Place) -> nn.Parameter:
    parameter = place[0]._parameters[place[1]]
    assert parameter is not None  # noqa: S101 -- `_named` yields none without
    return parameter
