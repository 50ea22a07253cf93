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
from tuner.registry import Registry

PREFIX_CACHE_BYTES = 128 * 1024 * 1024
STEPS_A_TURN = 4
"""Tokens an adapter's batch advances before another adapter is switched in."""
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
        self._batches: dict[str | None, RunningBatch] = {}
        self._runs: dict[Row, Run] = {}
        self._last_used: str | None = None

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
        """One more token for every run, or a few where several adapters take turns."""
        for row, run in self._runs.items():
            row.cancelled = run.cancelled
        steps = 1 if len(self._batches) <= 1 else STEPS_A_TURN
        # The adapter that is in place goes first: switching takes about as long as a token.
        for adapter in sorted(self._batches, key=lambda key: key != self._last_used):
            self.adapters.use(adapter)
            self._last_used = adapter
            for _ in range(steps):
                self._batches[adapter].step()
        self._batches = {adapter: batch for adapter, batch in self._batches.items() if batch.rows}
        self._report()

    def reset(self) -> None:
        """Forget every run and go back to the plain base model."""
        self._batches.clear()
        self._runs.clear()
        self.prefixes.clear()
        self.adapters.unload_all()

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
        if adapter not in self._batches:
            self._batches[adapter] = RunningBatch(self._base.model, self._base.tokenizer)
        rows = [Row(run.request.prompt, run.request.sampling) for run in runs]
        known = len(prefix.tokens) if prefix else 0
        shared = [self.prefixes.worth_keeping(adapter, run.request.prompt, known) for run in runs]
        # The first row is the one a new prefix is taken from.
        order = sorted(range(len(rows)), key=lambda i: -shared[i])
        kept = self._batches[adapter].admit([rows[i] for i in order], prefix, shared[order[0]])
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
