"""Text from prompts: what a generator is asked for, and the one that runs on the resident base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.prefix_cache import PrefixCache
from tuner.base_model import BaseModel
from tuner.decoding import (
    Decoded,
    DecodingCancelled,
    Row,
    RunningBatch,
    Sampling,
    decode,
    finished,
    text_so_far,
)
from tuner.kv_cache import Prefix
from tuner.loading import ResidentAdapters
from tuner.mixed_lora import can_mix, mixed_lora
from tuner.registry import Registry

PREFIX_CACHE_BYTES = 128 * 1024 * 1024
STEPS_A_TURN = 4
"""Tokens a batch advances before the adapter of another one is switched in."""
MIXED = "@"
"""The batch of the base model and all plain LoRA adapters; no adapter has this name."""
MOST_UNEVEN = 2
"""Prompts more than this many times as long as the shortest are read apart from it: padding costs time."""


def never_cancelled() -> bool:
    """The `cancelled` of work that nobody waits for impatiently."""
    return False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue; `adapter` is an `AdapterVersion.key` (`mixed@3`); None is the base alone."""

    prompt: tuple[int, ...]
    adapter: str | None
    sampling: Sampling


@dataclass(slots=True, eq=False)
class Run:
    """A request under way: the generator fills in text and result, whoever asked may give it up."""

    request: GenerationRequest
    cancelled: bool = False
    tokens: int = 0
    text: str = ""
    """The start of the answer, as far as no later token can change it."""
    decoded: Decoded | None = None
    error: Exception | None = None
    """Why there will be no answer, where that concerns no other run."""


class Generator(Protocol):
    """Anything that continues prompts; not thread-safe, so one thread at a time calls it."""

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool] = never_cancelled
    ) -> list[Decoded]:
        """One result per request, in order; `cancelled` is asked between tokens."""
        ...

    def admit(self, runs: Sequence[Run]) -> None:
        """Start runs beside those under way. Raises AdapterError, which leaves the others unharmed."""
        ...

    def step(self) -> None:
        """One more token for every run under way; those that end have `decoded` or `error`, cancelled ones leave."""
        ...

    def reset(self) -> None:
        """Forget every run and whatever a failure may have left behind."""
        ...

    def close(self) -> None:
        """Give back what it holds; nothing may be asked of it afterwards."""
        ...


class LocalGenerator:
    """The base model in this process, with adapters switched in and out of its layers.

    Once an adapter is loaded, peft's layers sit inside `base.model`: then only this object may call it.
    """

    def __init__(
        self,
        base: BaseModel,
        registry: Registry,
        max_adapters: int = 8,
        prefix_cache_bytes: int = PREFIX_CACHE_BYTES,
    ) -> None:
        """At most `max_adapters` stay in memory; the one unused for longest makes room."""
        self.prefixes = PrefixCache(prefix_cache_bytes)
        self._base = base
        self.adapters = ResidentAdapters(base, registry, max_adapters)
        self._max_adapters = max_adapters
        self._batches: dict[str, RunningBatch] = {}
        """By adapter, but for those that share `MIXED`."""
        self._runs: dict[Row, Run] = {}

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
                self.adapters.use(adapter)
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
            self.reset()
            raise
        return [results[place] for place in range(len(requests))]

    def admit(self, runs: Sequence[Run]) -> None:
        """Read the prompts, those with an adapter and a start in common together. Raises AdapterError."""
        by_adapter: dict[str | None, list[Run]] = {}
        for run in runs:
            by_adapter.setdefault(run.request.adapter, []).append(run)
        for adapter, members in by_adapter.items():
            self.adapters.use(adapter)
            for prefix, group in self._by_prefix(adapter, members):
                self._prefill(adapter, prefix, group)
        self._report()

    def step(self) -> None:
        """One more token for every run, or a few where several batches take turns."""
        for row, run in self._runs.items():
            row.cancelled = run.cancelled
        steps = 1 if len(self._batches) <= 1 else STEPS_A_TURN
        for batch in self._batches.values():
            for _ in range(steps):
                self._step(batch)
        self._batches = {name: batch for name, batch in self._batches.items() if batch.rows}
        self._report()

    def reset(self) -> None:
        """Forget every run and go back to the plain base model."""
        self._batches.clear()
        self._runs.clear()
        self.prefixes.clear()
        self.adapters.unload_all()

    def close(self) -> None:
        """Forget everything."""
        self.reset()

    def _step(self, batch: RunningBatch) -> None:
        """Rows of several adapters are plain LoRA's; rows of one take whatever adapter they have."""
        batch.drop_cancelled()
        adapters = [self._runs[row].request.adapter for row in batch.rows]
        if len(set(adapters)) <= 1:
            self.adapters.use(adapters[0] if adapters else None)
            batch.step()
            return
        self._hold({adapter for adapter in adapters if adapter is not None})
        with mixed_lora(self._base.model, adapters):
            batch.step()

    def _hold(self, adapters: set[str]) -> None:
        """Have all of `adapters` in memory, and nothing of other methods in the model."""
        present = [adapter for adapter in self.adapters.loaded if adapter in adapters]
        missing = adapters.difference(present)
        # Those present count as just used, so that the missing ones do not push them out.
        for adapter in [*present, *missing] if missing else present[-1:]:
            self.adapters.use(adapter)

    def _batch_of(self, adapter: str | None) -> str:
        """Which batch rows with `adapter`, which is in use, may join."""
        if adapter is None:
            return MIXED
        mixed = self._batches.get(MIXED)
        sharing = {self._runs[row].request.adapter for row in mixed.rows} if mixed else set()
        room = len({adapter, *sharing} - {None}) <= self._max_adapters
        return MIXED if room and can_mix(self._base.model, adapter) else adapter

    def _by_prefix(
        self, adapter: str | None, runs: Sequence[Run]
    ) -> Iterator[tuple[Prefix | None, list[Run]]]:
        """Runs that start with the same remembered prefix, of similar length."""
        groups: dict[tuple[int, ...], tuple[Prefix | None, list[Run]]] = {}
        for run in sorted(runs, key=lambda run: len(run.request.prompt)):
            prefix = self.prefixes.find(adapter, run.request.prompt)
            groups.setdefault(prefix.tokens if prefix else (), (prefix, []))[1].append(run)
        for prefix, members in groups.values():
            group: list[Run] = []
            for run in members:
                if group and len(run.request.prompt) > MOST_UNEVEN * len(group[0].request.prompt):
                    yield prefix, group
                    group = []
                group.append(run)
            yield prefix, group

    def _prefill(self, adapter: str | None, prefix: Prefix | None, runs: Sequence[Run]) -> None:
        name = self._batch_of(adapter)
        if name not in self._batches:
            self._batches[name] = RunningBatch(self._base.model, self._base.tokenizer)
        rows = [Row(run.request.prompt, run.request.sampling) for run in runs]
        known = len(prefix.tokens) if prefix else 0
        shared = [self.prefixes.worth_keeping(adapter, run.request.prompt, known) for run in runs]
        # The first row is the one a new prefix is taken from.
        order = sorted(range(len(rows)), key=lambda i: -shared[i])
        kept = self._batches[name].admit([rows[i] for i in order], prefix, shared[order[0]])
        if kept is not None:
            self.prefixes.add(adapter, kept)
        self._runs.update(zip(rows, runs, strict=True))

    def _report(self) -> None:
        """Tell every run how far it is; those that have ended are let go."""
        for row, run in list(self._runs.items()):
            run.tokens = len(row.tokens)
            if row.finish is not None:
                run.decoded = finished(row, self._base.tokenizer)
                run.text = run.decoded.text
            elif not row.cancelled:
                run.text = text_so_far(row, self._base.tokenizer)
                continue
            del self._runs[row]
