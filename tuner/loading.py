"""Adapters of any method, switched in and out of the one resident base model."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors.torch import load_file
from torch import Tensor, nn

from tuner.base_model import BaseModel
from tuner.fast_lora import leave_fast_lora, use_fast_lora, use_fixed_dora
from tuner.ia3 import Ia3
from tuner.lora import unload
from tuner.machine import return_holes
from tuner.registry import AdapterError, AdapterVersion, Registry, check_adapter
from tuner.soft_prefix import SoftPrefix
from tuner.swapping import SwappedTensors

log = logging.getLogger("openbook.tuner")


class ResidentAdapters:
    """Adapter versions in memory for one base model; whoever calls the model says first which one is to be used.

    LoRA's kin share PEFT's layers inside the base model and are switched there. The other methods are kept as plain
    tensors and are in place only while they are used. Not thread-safe; nobody else may call the model meanwhile.
    """

    def __init__(self, base: BaseModel, registry: Registry, max_adapters: int = 8) -> None:
        """At most `max_adapters` stay in memory; the one unused for longest makes room."""
        self._base = base
        self._registry = registry
        self._max_adapters = max_adapters
        self._peft: PeftModel | None = None
        self._held: dict[str, Saved | None] = {}
        self._used: str | None = None
        self._attached: Detachable | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """Keys of the adapters in memory, the one used last at the end."""
        return tuple(self._held)

    def use(self, key: str | None) -> None:
        """Let the model answer with adapter `key`, or as it is.

        Raises AdapterError: for an adapter that is refused nothing has changed then; one that cannot be put in leaves
        the plain base model, and others are loaded again when they are used.
        """
        if key == self._used:
            return
        saved = self._read(key) if key is not None and key not in self._held else None
        try:
            self._leave()
            if key is not None:
                self._enter(key, saved)
        except Exception:
            self.unload_all()
            raise

    def forget(self, key: str) -> None:
        """Give an adapter's memory back; it is loaded again when it is used."""
        if key == self._used:
            self._leave()
        if key in self._held:
            self._forget(key)

    def unload_all(self) -> None:
        """Back to the plain base model: after a failure nobody knows what its layers hold."""
        attached, self._attached = self._attached, None
        self._held.clear()
        self._peft = self._used = None
        if attached is not None:
            attached.detach()
        unload(self._base.model)

    def _leave(self) -> None:
        self._used = None
        attached, self._attached = self._attached, None
        if attached is not None:
            attached.detach()
        elif self._peft is not None:
            leave_fast_lora(self._base.model)
            _lora_layers(self._peft).disable_adapter_layers()

    def _enter(self, key: str, new: Saved | None) -> None:
        if new is not None:
            self._load(key, new)
        held = self._held[key] = self._held.pop(key)
        if held is not None:
            self._attached = attach_saved(self._base.model, held.tensors, held.config)
        elif self._peft is not None:
            _lora_layers(self._peft).enable_adapter_layers()
            self._peft.set_adapter(key, inference_mode=True)
            use_fast_lora(self._base.model, key)
            use_fixed_dora(self._base.model, key)
        self._used = key
        if len(self._held) > self._max_adapters:
            self._forget(next(iter(self._held)))

    def _read(self, key: str) -> Saved:
        adapter = self._registry.resolve(key)
        check_adapter(adapter, self._base.name, self._base.hash)
        return read_adapter(adapter)

    def _load(self, key: str, saved: Saved) -> None:
        started = time.monotonic()
        if saved.config.get("peft_type") == "LORA":
            self._load_lora(key, saved.folder)
            self._held[key] = None
        else:
            self._held[key] = saved
        return_holes()  # left by hundreds of small tensors
        log.info("loaded adapter %s in %.2f s", key, time.monotonic() - started)

    def _load_lora(self, key: str, path: Path) -> None:
        # In the base model's own number format, as it was trained: peft would raise it to float32.
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(
                    self._base.model, path, adapter_name=key, autocast_adapter_dtype=False
                )
            else:
                self._peft.load_adapter(path, adapter_name=key, autocast_adapter_dtype=False)
        except Exception as error:
            raise AdapterError(
                f"adapter {key} cannot be loaded ({type(error).__name__}); train it again with `openbook tune`"
            ) from error
        # Dropout drops nothing while answering, but with it no layer would be fused.
        for module in self._base.model.modules():
            if isinstance(module, LoraLinear) and key in module.lora_dropout:
                module.lora_dropout[key] = nn.Identity()
        self._peft.eval()

    def _forget(self, key: str) -> None:
        if self._held.pop(key) is not None or self._peft is None:
            return
        if None in self._held.values():
            self._peft.delete_adapter(key)
            if self._attached is not None:
                _lora_layers(self._peft).disable_adapter_layers()  # deleting the active one activates another
        else:
            self._peft = None
            unload(self._base.model)


def _lora_layers(peft: PeftModel) -> Any:
    return peft.base_model


class Detachable(Protocol):
    """Something inside the base model that can be taken out again."""

    def detach(self) -> None:
        """Make the base model what it was."""
        ...


def attach_saved(model: Any, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Detachable:
    """Put a saved adapter that is not of LoRA's kin into the model. Raises AdapterError."""
    kind = str(config.get("peft_type") or config.get("method"))
    if kind not in _LOADERS:
        raise AdapterError(f"adapters of type {kind!r} cannot be loaded; known: LORA, {', '.join(_LOADERS)}")
    try:
        return _LOADERS[kind](model, tensors, config)
    except (ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise AdapterError(f"the adapter of type {kind} does not fit the base model: {error}") from error


@dataclass(frozen=True, slots=True)
class Saved:
    """An adapter's files, read; the tensors of LoRA's kin are left in their file, which PEFT reads itself."""

    folder: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]


def read_adapter(adapter: AdapterVersion) -> Saved:
    """Configuration and tensors as they are on disk."""
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    weights = adapter.path / "adapter_model.safetensors"
    return Saved(adapter.path, {} if config.get("peft_type") == "LORA" else load_file(weights), config)


_LOADERS: dict[str, Callable[[Any, Mapping[str, Tensor], Mapping[str, Any]], Detachable]] = {
    "IA3": Ia3.loaded,
    "PROMPT_TUNING": SoftPrefix.loaded,
    "P_TUNING": SoftPrefix.loaded,
    "PREFIX_TUNING": SoftPrefix.loaded,
    "last-layer": SwappedTensors.loaded,
    "full": SwappedTensors.loaded,
}
