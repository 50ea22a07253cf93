"""Text from prompts: what a generator is asked for, and the one that runs on the resident base model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from peft import PeftModel

from tuner.base_model import BaseModel
from tuner.decoding import Decoded, DecodingCancelled, Sampling, decode
from tuner.registry import Registry, check_adapter

log = logging.getLogger("openbook.service")


def never_cancelled() -> bool:
    """The `cancelled` of work that nobody waits for impatiently."""
    return False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue; `adapter` is an `AdapterVersion.key` (`mixed@3`); None is the base alone."""

    prompt: tuple[int, ...]
    adapter: str | None
    sampling: Sampling


class Generator(Protocol):
    """Anything that continues prompts; not thread-safe, so one thread at a time calls it."""

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool] = never_cancelled
    ) -> list[Decoded]:
        """One result per request, in order; `cancelled` is asked between tokens."""
        ...


class LocalGenerator:
    """The base model in this process, with adapters switched in and out of its layers.

    Once an adapter is loaded, peft's layers sit inside `base.model`: then only this object may call it.
    """

    def __init__(self, base: BaseModel, registry: Registry, max_adapters: int = 8) -> None:
        """At most `max_adapters` stay in memory; the one unused for longest makes room."""
        self._base = base
        self._registry = registry
        self._max_adapters = max_adapters
        self._peft: PeftModel | None = None
        self._loaded: list[str] = []

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool] = never_cancelled
    ) -> list[Decoded]:
        """Continue the prompts of each adapter together. Raises AdapterError, DecodingCancelled."""
        groups: dict[str | None, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(request.adapter, []).append(place)
        results: dict[int, Decoded] = {}
        try:
            for adapter, places in groups.items():
                with self._switched_to(adapter):
                    decoded = decode(
                        self._base.model,
                        self._base.tokenizer,
                        [requests[place].prompt for place in places],
                        [requests[place].sampling for place in places],
                        cancelled=cancelled,
                    )
                results.update(zip(places, decoded, strict=True))
        except DecodingCancelled:
            raise  # between two tokens: nothing is half done
        except BaseException:
            self._unload_all()
            raise
        return [results[place] for place in range(len(requests))]

    def _switched_to(self, adapter: str | None) -> AbstractContextManager[None]:
        if adapter is not None:
            self._load(adapter).set_adapter(adapter)
            return nullcontext()
        return nullcontext() if self._peft is None else self._peft.disable_adapter()

    def _load(self, key: str) -> PeftModel:
        """The model with adapter `key` in memory, loaded from the registry if it was not."""
        if self._peft is not None and key in self._loaded:
            self._loaded.remove(key)
            self._loaded.append(key)
            return self._peft
        adapter = self._registry.resolve(key)
        check_adapter(adapter, self._base.name, self._base.hash)
        started = time.monotonic()
        if self._peft is None:
            # In the base model's own number format, as it was trained: peft would raise it to float32.
            self._peft = PeftModel.from_pretrained(
                self._base.model, adapter.path, adapter_name=key, autocast_adapter_dtype=False
            )
        else:
            self._peft.load_adapter(adapter.path, adapter_name=key, autocast_adapter_dtype=False)
        self._peft.eval()
        self._loaded.append(key)
        log.info("loaded adapter %s in %.2f s", key, time.monotonic() - started)
        if len(self._loaded) > self._max_adapters:
            self._peft.set_adapter(key)
            self._peft.delete_adapter(self._loaded.pop(0))
        return self._peft

    def _unload_all(self) -> None:
        """Back to the plain base model: after a failure nobody knows what peft's layers hold."""
        if self._peft is not None:
            self._peft.unload()
            self._peft = None
            self._loaded.clear()
