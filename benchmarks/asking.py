"""How the benchmarks of the service ask questions over HTTP, and what the replies took.

Imported by `serve.py`; run by itself it does nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
from serving import NEW_TOKENS, Task


@dataclass(frozen=True)
class Reply:
    text: str
    tokens: int
    first_token: float
    seconds: float


Ask = Callable[[httpx.AsyncClient, Task], Awaitable[Reply]]


def ask_ours(count_tokens: Callable[[str], int], whole: bool = False) -> Ask:
    """By chat, as clients do; with `whole` every answer has all of its NEW_TOKENS."""

    async def ask(client: httpx.AsyncClient, task: Task) -> Reply:
        body = {
            "model": task.route,
            "messages": [{"role": "user", "content": task.question}],
            "max_tokens": NEW_TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if whole else {}),
        }
        return await _read(
            client, "/v1/chat/completions", body, count_tokens, lambda c: c["delta"].get("content"), whole
        )

    return ask


def ask_peer(
    model: str, lora: str | None, count_tokens: Callable[[str], int], endless: Mapping[str, object]
) -> Ask:
    """The same prompts for another server; tasks with an adapter go to `lora`, if the server has one.

    `endless` is what the server must be told for every answer to have all of its NEW_TOKENS; empty if they may end.
    """

    async def ask(client: httpx.AsyncClient, task: Task) -> Reply:
        body = {
            "model": lora if lora and task.adapter else model,
            "prompt": task.prompt,
            "max_tokens": NEW_TOKENS,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **endless,
            **({"stop": list(task.stop)} if task.stop and not endless else {}),
        }
        whole = bool(endless)
        return await _read(client, "/v1/completions", body, count_tokens, lambda c: c.get("text"), whole)

    return ask


async def _read(
    client: httpx.AsyncClient,
    path: str,
    body: dict[str, object],
    count_tokens: Callable[[str], int],
    text_of: Callable[[dict[str, Any]], str | None],
    whole: bool,
) -> Reply:
    """One streamed reply; a server that is busy is asked again after a moment.

    Raises RuntimeError if it is `whole` and the server counts other than NEW_TOKENS.
    """
    started, first, text, tokens = time.monotonic(), 0.0, "", None
    async with client.stream("POST", path, json=body) as response:
        if response.status_code == 503:
            await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
            return await _read(client, path, body, count_tokens, text_of, whole)
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "choices" not in event:
                raise RuntimeError(f"{path}: {event}")
            if event.get("usage"):
                tokens = int(event["usage"]["completion_tokens"])
            for choice in event["choices"]:
                if piece := text_of(choice):
                    first = first or time.monotonic() - started
                    text += piece
    seconds = time.monotonic() - started
    if whole and tokens is not None and tokens != NEW_TOKENS:
        raise RuntimeError(f"{path}: an answer of {tokens} tokens instead of {NEW_TOKENS}")
    return Reply(text, count_tokens(text) if tokens is None else tokens, first or seconds, seconds)


def measure(url: str, ask: Ask, tasks: Sequence[Task], clients: int) -> tuple[list[Reply], float]:
    """Every reply in order, and the seconds that all took together."""

    async def all_of_them() -> list[Reply]:
        free = asyncio.Semaphore(clients)
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:

            async def one(task: Task) -> Reply:
                async with free:
                    return await ask(client, task)

            return await asyncio.gather(*(one(task) for task in tasks))

    started = time.monotonic()
    replies = asyncio.run(all_of_them())
    return replies, time.monotonic() - started


def summary(replies: Sequence[Reply], seconds: float) -> dict[str, float]:
    times, firsts = [r.seconds for r in replies], [r.first_token for r in replies]
    return {
        "tokens a second": round(sum(r.tokens for r in replies) / seconds, 1),
        "requests a second": round(len(replies) / seconds, 2),
        "seconds p50": percentile(times, 0.5),
        "seconds p95": percentile(times, 0.95),
        "first token p50": percentile(firsts, 0.5),
        "first token p95": percentile(firsts, 0.95),
    }


def percentile(values: Sequence[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 4)


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process and its children; 0 for a server that was not started here."""
    if not pid:
        return 0.0
    process = psutil.Process(pid)
    return round(sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 1e6, 1)
