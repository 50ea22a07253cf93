"""Answers from an OpenAI-compatible server: the model thread's view of requests that run elsewhere."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from indexer.config import RemoteConfig
from service.completions_client import CompletionsClient
from service.generation import GenerationRequest, Run, never_cancelled
from tuner.decoding import Decoded, DecodingCancelled
from tuner.registry import AdapterError

STEP_SECONDS = 0.005
"""Longest that a step waits for news, so that newcomers start and those who leave are noticed."""


def served_name(config: RemoteConfig, adapter: str | None) -> str:
    """What the server calls `adapter` (`mixed@3`, or `mixed`), or the base model. Raises AdapterError."""
    if adapter is None:
        return config.model
    for known in (adapter, adapter.partition("@")[0]):
        if known in config.adapters:
            return config.adapters[known]
    raise AdapterError(
        f"model.remote.adapters does not say what {config.url} calls adapter {adapter}; "
        f"it names {', '.join(config.adapters) or 'none'}"
    )


@dataclass(slots=True)
class _State:
    """How far an answer is; written by the event loop, read by `step`, both under the lock."""

    text: str = ""
    tokens: int = 0


class RemoteGenerator:
    """Sends every request on its own and lets the server batch; `close()` ends its event loop."""

    def __init__(self, config: RemoteConfig, first_pause_seconds: float = 0.5) -> None:
        """The key comes from the environment variable `config.api_key_env`."""
        self._config = config
        self._runs: dict[Run, tuple[_State, Future[Decoded]]] = {}
        self._news = threading.Condition()
        self._any_news = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openbook-remote", daemon=True)
        self._thread.start()
        self._client = CompletionsClient(config, os.environ.get(config.api_key_env), first_pause_seconds)

    def require_served(self, adapter: str) -> None:
        """Raise AdapterError unless the configuration says what the server calls `adapter` (`mixed@3`)."""
        served_name(self._config, adapter)

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool] = never_cancelled
    ) -> list[Decoded]:
        """Continue all prompts at once. Raises AdapterError, RemoteError, DecodingCancelled."""
        runs = [Run(request) for request in requests]
        self.admit(runs)
        try:
            while self._runs:
                if cancelled():
                    raise DecodingCancelled
                self.step()
                if error := next((run.error for run in runs if run.error is not None), None):
                    raise error
        finally:
            self.reset()
        return [run.decoded for run in runs if run.decoded is not None]

    def admit(self, runs: Sequence[Run]) -> None:
        """Send the requests. Raises AdapterError for an adapter that the server is not said to have."""
        names = [served_name(self._config, run.request.adapter) for run in runs]
        for run, name in zip(runs, names, strict=True):
            state = _State()
            answer = self._client.complete(name, run.request, self._reporting(state))
            future = asyncio.run_coroutine_threadsafe(answer, self._loop)
            future.add_done_callback(lambda _: self._tell())
            self._runs[run] = (state, future)

    def step(self) -> None:
        """Wait a moment for news, and pass it on."""
        for run in [run for run in self._runs if run.cancelled]:
            _, future = self._runs.pop(run)
            future.cancel()
        with self._news:
            self._news.wait_for(lambda: self._any_news, STEP_SECONDS)
            self._any_news = False
            for run, (state, future) in list(self._runs.items()):
                run.text, run.tokens = state.text, state.tokens
                if future.done():
                    del self._runs[run]
                    self._end(run, future)

    def reset(self) -> None:
        """Give up every run."""
        for _, future in self._runs.values():
            future.cancel()
        self._runs.clear()

    def close(self) -> None:
        """Give up every run, and the connections."""
        self.reset()
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _end(self, run: Run, future: Future[Decoded]) -> None:
        error = future.exception()
        if isinstance(error, Exception):
            run.error = error
        elif error is not None:
            raise error
        else:
            run.decoded = future.result()
            run.text = run.decoded.text
            run.tokens = run.decoded.completion_tokens

    def _reporting(self, state: _State) -> Callable[[str, int], None]:
        def report(text: str, tokens: int) -> None:
            with self._news:
                state.text, state.tokens = text, tokens
            self._tell()

        return report

    def _tell(self) -> None:
        with self._news:
            self._any_news = True
            self._news.notify_all()

    async def _close(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()
