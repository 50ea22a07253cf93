"""Chat completions of an OpenAI-compatible endpoint: many at once, kept on disk, within a budget."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from indexer.files import hash_json, write_atomically
from indexer.progress import progress
from tuner.config import SynthesisConfig

log = logging.getLogger("openbook.tuner")

_ATTEMPTS = 4
_TIMEOUT_SECONDS = 120.0
BYTES_PER_TOKEN = 3.5
"""For estimates only; what an endpoint reports is what counts. Of UTF-8, as other scripts have more tokens a sign."""


class SynthesisError(RuntimeError):
    """The endpoint cannot be used, or the budget does not suffice; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: instructions, material, and the most tokens of the reply."""

    system: str
    user: str
    max_tokens: int
    temperature: float = 0.7

    @property
    def most_tokens(self) -> int:
        """Estimate of what it costs at most."""
        return round(len((self.system + self.user).encode()) / BYTES_PER_TOKEN) + self.max_tokens


class Endpoint:
    """Replies by request; those of earlier runs come from `cache` and cost nothing."""

    def __init__(self, settings: SynthesisConfig, cache: Path) -> None:
        self._settings = settings
        self._cache = cache
        self._used = self._under_way = 0
        self._lock = threading.Lock()
        key = os.environ.get(settings.api_key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=settings.url, headers=headers, timeout=_TIMEOUT_SECONDS)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    @property
    def tokens_used(self) -> int:
        """Tokens, asked and answered, that this object has spent; requests that timed out count as if answered."""
        return self._used

    def estimate(self, asks: Sequence[Ask]) -> tuple[int, int]:
        """How many of the requests are not in the cache, and the most tokens they may take."""
        new = [ask for ask in asks if not self._file(ask).is_file()]
        return len(new), sum(ask.most_tokens for ask in new)

    def replies(self, asks: Sequence[Ask], description: str) -> list[str]:
        """The text of every reply, in order. Raises SynthesisError; what was answered until then is kept."""
        calls, tokens = self.estimate(asks)
        if self._used + tokens > self._settings.max_tokens:
            raise SynthesisError(
                f"{description}: {calls} requests may take {tokens:,} tokens after {self._used:,} used, more than "
                f"tune.synthesis.max_tokens = {self._settings.max_tokens:,}; raise it or ask for fewer variants"
            )
        with (
            progress(description, len(asks)) as advance,
            ThreadPoolExecutor(self._settings.concurrency, "openbook-synthesis") as pool,
        ):

            def reply(ask: Ask) -> str:
                text = self._reply(ask)
                with self._lock:
                    advance()
                return text

            futures = [pool.submit(reply, ask) for ask in asks]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _reply(self, ask: Ask) -> str:
        file = self._file(ask)
        if file.is_file():
            return str(json.loads(file.read_text())["text"])
        body = self._post(ask)
        try:
            text = str(body["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as error:
            raise SynthesisError(f"{self._settings.url} sent no choices[0].message.content") from error
        write_atomically(file, json.dumps({"text": text, "usage": body.get("usage") or {}}))
        return text

    @contextmanager
    def _within_budget(self, ask: Ask) -> Iterator[None]:
        """Hold back what an attempt may cost while it is under way. Raises SynthesisError if that is too much."""
        with self._lock:
            if self._used + self._under_way + ask.most_tokens > self._settings.max_tokens:
                raise SynthesisError(
                    f"{self._used:,} tokens are used, and one more request might exceed tune.synthesis.max_tokens = "
                    f"{self._settings.max_tokens:,}; what was answered so far is kept"
                )
            self._under_way += ask.most_tokens
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= ask.most_tokens

    def _post(self, ask: Ask) -> Mapping[str, Any]:
        payload = {
            "model": self._settings.model,
            "messages": [{"role": "system", "content": ask.system}, {"role": "user", "content": ask.user}],
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
        }
        for attempt in range(_ATTEMPTS):
            try:
                with self._within_budget(ask):
                    status, body = self._sent(payload, ask)
            except httpx.TransportError as error:
                problem = f"cannot be reached ({type(error).__name__})"
            else:
                if status == httpx.codes.OK:
                    return body
                problem = f"answered {status}"
                if status < 500 and status not in (408, 429):
                    hint = f"; is {self._settings.api_key_env} set?" if status == 401 else ""
                    raise SynthesisError(
                        f"{self._settings.url} {problem} for model {self._settings.model!r}{hint}"
                    )
            if attempt + 1 < _ATTEMPTS:
                log.info("%s %s; trying again", self._settings.url, problem)
                time.sleep(self._pause_seconds(attempt))
        raise SynthesisError(
            f"{self._settings.url} {problem}, {_ATTEMPTS} times; what it answered so far is kept"
        )

    def _sent(self, payload: Mapping[str, Any], ask: Ask) -> tuple[int, Mapping[str, Any]]:
        """Status and, if that is 200, body; what they cost, or may have cost if none came in time, is spent."""
        cost, body = 0, dict[str, Any]()
        try:
            response = self._client.post("chat/completions", json=payload)
            if response.status_code == httpx.codes.OK:
                body = self._parsed(response)
                cost = int((body.get("usage") or {}).get("total_tokens") or ask.most_tokens)
        except httpx.ReadTimeout:
            cost = ask.most_tokens
            raise
        finally:
            with self._lock:
                self._used += cost
        return response.status_code, body

    def _parsed(self, response: httpx.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except ValueError as error:
            raise SynthesisError(f"{self._settings.url} sent no JSON; is it up to and with /v1?") from error
        return body if isinstance(body, dict) else {}

    def _pause_seconds(self, attempt: int) -> float:
        return float(2**attempt) * _FIRST_PAUSE_SECONDS

    def _file(self, ask: Ask) -> Path:
        server = [self._settings.url, self._settings.model]
        name = hash_json([*server, ask.system, ask.user, ask.max_tokens, ask.temperature])
        return self._cache / name[:2] / f"{name}.json"


_FIRST_PAUSE_SECONDS = 1.0
