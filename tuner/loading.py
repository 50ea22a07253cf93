"""Adapters of any method, switched in and out of the one resident base model."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from tuner.base_model import BaseModel
from tuner.decoding import DecodingCancelled
from tuner.ia3 import Ia3
from tuner.lora import unload
from tuner.registry import AdapterError, AdapterVersion, Registry, check_adapter
from tuner.soft_prefix import SoftPrefix
from tuner.swapping import SwappedTensors

log = logging.getLogger("openbook.tuner")


class ResidentAdapters:
    """Adapter versions in memory for one base model; not thread-safe.

    LoRA's kin share PEFT's layers inside the base model and are switched there. The other methods are kept as plain
    tensors and put into place for as long as they are used.
    """

    def __init__(self, base: BaseModel, registry: Registry, max_adapters: int = 8) -> None:
        """At most `max_adapters` stay in memory; the one unused for longest makes room."""
        self._base = base
        self._registry = registry
        self._max_adapters = max_adapters
        self._peft: PeftModel | None = None
        self._loaded: dict[str, Saved | None] = {}

    @contextmanager
    def active(self, key: str | None) -> Iterator[None]:
        """Inside the block the base model computes with adapter `key`, or as it is with None.

        After an exception nothing of any adapter is left in the base model. Raises AdapterError.
        """
        try:
            with self._switched(key):
                yield
        except DecodingCancelled:
            raise  # between two tokens: nothing is half done
        except BaseException:
            self.reset()
            raise

    def reset(self) -> None:
        """Back to the plain base model."""
        self._loaded.clear()
        self._peft = None
        unload(self._base.model)

    @contextmanager
    def _switched(self, key: str | None) -> Iterator[None]:
        held = self._held(key) if key is not None else None
        if key is not None and held is None and self._peft is not None:
            self._peft.set_adapter(key)
            yield
            return
        with nullcontext() if self._peft is None else self._peft.disable_adapter():
            if held is None:
                yield
                return
            attached = attach_saved(self._base.model, held.tensors, held.config)
            try:
                yield
            finally:
                attached.detach()

    def _held(self, key: str) -> Saved | None:
        """The tensors of adapter `key`, read if they were not; None once it is among PEFT's layers."""
        if key not in self._loaded:
            adapter = self._registry.resolve(key)
            check_adapter(adapter, self._base.name, self._base.hash)
            started = time.monotonic()
            held = read_adapter(adapter)
            if held.config.get("peft_type") == "LORA":
                self._add_lora(key, adapter.path)
                self._loaded[key] = None
            else:
                self._loaded[key] = held
            log.info("loaded adapter %s in %.2f s", key, time.monotonic() - started)
            self._make_room(key)
        self._loaded[key] = self._loaded.pop(key)
        return self._loaded[key]

    def _add_lora(self, key: str, path: Path) -> None:
        # In the base model's own number format, as it was trained: peft would raise it to float32.
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(
                self._base.model, path, adapter_name=key, autocast_adapter_dtype=False
            )
        else:
            self._peft.load_adapter(path, adapter_name=key, autocast_adapter_dtype=False)
        self._peft.eval()

    def _make_room(self, key: str) -> None:
        if len(self._loaded) <= self._max_adapters:
            return
        oldest = next(iter(self._loaded))
        if self._loaded.pop(oldest) is None and self._peft is not None:
            others = [name for name, held in self._loaded.items() if held is None]
            if not others:
                self._peft = None
                unload(self._base.model)
                return
            self._peft.set_adapter(key if key in others else others[-1])
            self._peft.delete_adapter(oldest)


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
    """An adapter's files, read."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]


def read_adapter(adapter: AdapterVersion) -> Saved:
    """Tensors and configuration as they are on disk."""
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    return Saved(load_file(adapter.path / "adapter_model.safetensors"), config)


_LOADERS: dict[str, Callable[[Any, Mapping[str, Tensor], Mapping[str, Any]], Detachable]] = {
    "IA3": Ia3.loaded,
    "PROMPT_TUNING": SoftPrefix.loaded,
    "P_TUNING": SoftPrefix.loaded,
    "PREFIX_TUNING": SoftPrefix.loaded,
    "last-layer": SwappedTensors.loaded,
    "full": SwappedTensors.loaded,
}
