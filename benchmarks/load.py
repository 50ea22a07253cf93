"""What the service does under load: overload, long prompts, one adapter more, many requests.

Imported by `serve.py`; run by itself it does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
from asking import Ask, ask_ours, measure, percentile, resident_megabytes
from serving import EXTRA, RESULTS, Task, server

FLAT = 0.05
HEALTH_SECONDS = 0.1
LONG = 5000
"""Tokens, about, of a prompt that takes long to read."""
ADAPTER_SHARE = 1.2
REST_SECONDS = 3.0
"""An idle service looks every second whether a burst has left much behind."""


async def overload(url: str, tasks: Sequence[Task]) -> dict[str, Any]:
    """Ten times the queue's capacity at once: what came back, and whether any answer is another question's."""
    capacity = 64
    asked = [tasks[i % len(tasks)] for i in range(10 * capacity)]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def one(task: Task) -> httpx.Response:
            return await client.post("/v1/answer", json={"question": task.question, "route": task.route})

        responses = await asyncio.gather(*(one(task) for task in asked), return_exceptions=True)
    lost = [r for r in responses if isinstance(r, BaseException)]
    whole = [(t, r) for t, r in zip(asked, responses, strict=True) if isinstance(r, httpx.Response)]
    answered = [(t, r.json()) for t, r in whole if r.status_code == 200]
    return {
        "asked": len(asked),
        "statuses": dict(Counter(str(r.status_code) for _, r in whole)),
        "lost": len(lost),
        "503 without Retry-After": sum(
            r.status_code == 503 and not r.headers.get("Retry-After", "").isdigit() for _, r in whole
        ),
        "of another question or route": sum(
            (body["question"], body["route"]) != (task.question, task.route) for task, body in answered
        ),
    }


async def health(url: str) -> dict[str, Any]:
    """`/healthz` fifty times a second while long prompts are read."""
    prompts = [[1000 + n] * LONG for n in range(2)]  # of token ids, so that nothing shortens them
    waits = []
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def ask_long(prompt: Sequence[int]) -> httpx.Response:
            body = {"model": "base", "prompt": prompt, "max_tokens": 2, "temperature": 0}
            return await client.post("/v1/completions", json=body)

        await client.get("/healthz")
        reading = [asyncio.create_task(ask_long(prompt)) for prompt in prompts]
        while not all(task.done() for task in reading):
            started = time.monotonic()
            (await client.get("/healthz")).raise_for_status()
            waits.append(time.monotonic() - started)
            await asyncio.sleep(0.02)
        statuses = Counter(str(task.result().status_code) for task in reading)
    return {
        "answers": dict(statuses),
        "checks": len(waits),
        "seconds p50": percentile(waits, 0.5),
        "seconds p99": percentile(waits, 0.99),
        "seconds most": round(max(waits), 4),
    }


def one_adapter_more(
    command: Sequence[str], dtype: str, count_tokens: Callable[[str], int], tasks: Sequence[Task]
) -> dict[str, float]:
    """Resident memory before and after routes with other adapters are first asked, by adapter."""
    task, ours = next(t for t in tasks if t.adapter), ask_ours(count_tokens)
    with server(command, {"OPENBOOK_MODEL__DTYPE": dtype}) as (url, pid):
        measure(url, ours, [task] * 4, 1)
        before = resident_megabytes(pid)
        measure(url, ours, [replace(task, route=f"extra{n}") for n in range(EXTRA)], 1)
        after = resident_megabytes(pid)
    weights = next((RESULTS / "workspace").rglob("extra0/1/adapter_model.safetensors"))
    return {
        "MB": round((after - before) / EXTRA, 1),
        "MB of the file": round(weights.stat().st_size / 1e6, 1),
    }


def soak(
    url: str, pid: int, ours: Ask, tasks: Sequence[Task], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Resident memory after every twentieth of the requests, at once and at rest; the first tenth warms up."""
    step = max(1, arguments.soak // 20)
    busy, rest = [], []
    for place in range(0, arguments.soak, step):
        part = [tasks[i % len(tasks)] for i in range(place, min(place + step, arguments.soak))]
        measure(url, ours, part, arguments.clients)
        busy.append(resident_megabytes(pid))
        time.sleep(REST_SECONDS)
        rest.append(resident_megabytes(pid))
    return {
        "requests": arguments.soak,
        "MB": busy,
        "MB at rest": rest,
        "furthest from the median": furthest_from_median(busy),
        "at rest, furthest from the median": furthest_from_median(rest),
    }


def furthest_from_median(sizes: Sequence[float]) -> float:
    """As a share of the median, of all but the first two."""
    steady = sizes[2:] or sizes
    middle = statistics.median(steady)
    return round(max(abs(size - middle) for size in steady) / middle, 4)


def load_checks(parts: dict[str, Any]) -> list[tuple[str, str, bool | None]]:
    """What was wanted, what was found, and whether that passes."""
    over, healthy = parts["overload"], parts["health during a long prefill"]
    sound = set(over["statuses"]) <= {"200", "503"} and not over["lost"]
    sound = sound and not over["503 without Retry-After"] and not over["of another question or route"]
    p99 = healthy["seconds p99"]
    checks: list[tuple[str, str, bool | None]] = [
        ("10 times the queue: only 200, or 503 with Retry-After; none lost or mixed", str(over), sound),
        (
            "/healthz p99 below 100 ms during a long prefill",
            f"{1000 * p99:.0f} ms, {healthy['checks']} checks, answers {healthy['answers']}",
            p99 < HEALTH_SECONDS and set(healthy["answers"]) <= {"200", "504"},
        ),
    ]
    if memory := parts.get("memory"):
        for state, prefix in (("", ""), (" at rest", "at rest, ")):
            furthest = memory[f"{prefix}furthest from the median"]
            wanted = f"memory{state} within 5 % over {memory['requests']} requests"
            found = f"{100 * furthest:.1f} %, MB {memory[f'MB{state}']}"
            checks.append((wanted, found, furthest <= FLAT))
    if more := parts.get("one adapter more"):
        share = more["MB"] / more["MB of the file"]
        checks.append(
            ("one adapter more takes at most 1.2 times its file", f"{share:.2f}", share <= ADAPTER_SHARE)
        )
    return checks
