"""The service with real weights: throughput beside other servers in one run, and what it does under load.

    python benchmarks/serve.py [--questions 32] [--clients 16] [--soak 2000] [--workspace FOLDER] [--base MODEL]
                               [--data ../shared/data/squad-xquad-en] [--dtype auto] [--routes base,rag,tuned,hybrid]
                               [--peer NAME=COMMAND-OR-URL] [--peer-model NAME=ID] [--peer-lora NAME=ID] [--no-peers]

Four routes take turns over real questions (those of dev), greedily, up to 32 new tokens. Then: ten times the queue's
capacity at once, `/healthz` while long prompts are read, the memory of one adapter more, and memory over `--soak` mixed
requests. Every figure is printed with what it must be. Results are kept in `benchmarks/results/serve.json`:
run again with the same settings, what is there is not repeated (delete the file to start anew).

`transformers serve` is always measured, unless `--no-peers`. Any other server of the OpenAI protocol joins by `--peer`,
which may be repeated: a command with `{port}` and `{model}` (the folder of the base model), or the URL of a server that
runs. Peers get the very same prompts; all of them go to the base model, as peers have no retrieval and switch no
adapters, unless `--peer-lora` names a LoRA module of the peer for the prompts of routes with an adapter.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from asking import Ask, ask_ours, ask_peer, measure, percentile, resident_megabytes, summary
from serving import (
    EXTRA,
    RESULTS,
    Results,
    Task,
    add_workspace_arguments,
    open_workspace,
    openbook_command,
    prepare,
    server,
)

WARM_UP = 8
FLAT = 0.05
HEALTH_SECONDS = 0.1
LONG = 5000
"""Tokens, about, of a prompt that takes long to read."""
ADAPTER_SHARE = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workspace_arguments(parser)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--routes", default="base,rag,tuned,hybrid")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--soak", type=int, default=2000)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND-OR-URL")
    parser.add_argument("--peer-model", action="append", default=[], metavar="NAME=ID")
    parser.add_argument("--peer-lora", action="append", default=[], metavar="NAME=ID")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    workspace = open_workspace(arguments)
    tasks, model, count_tokens = prepare(workspace, arguments.questions, arguments.routes.split(","))
    settings = {
        name: getattr(arguments, name) for name in ("base", "dtype", "routes", "questions", "clients", "soak")
    }
    results = Results(RESULTS / "serve.json", {**settings, "workspace": str(workspace)})
    command = openbook_command("serve", "-w", str(workspace), "--port", "{port}")
    with server(command, {"OPENBOOK_MODEL__DTYPE": arguments.dtype}) as (url, pid):
        measure_ours(results, url, pid, ask_ours(count_tokens), tasks, arguments)
    if arguments.workspace is None:  # with its memory as after a start, without holes to fill
        results.part(
            "one adapter more", lambda: one_adapter_more(command, arguments.dtype, count_tokens, tasks)
        )
    if not arguments.no_peers:
        measure_peers(results, model, count_tokens, tasks, arguments)
    sys.exit(report(results.parts, tasks, arguments.clients))


def measure_ours(
    results: Results, url: str, pid: int, ours: Ask, tasks: Sequence[Task], arguments: argparse.Namespace
) -> None:
    def timed(clients: int) -> dict[str, Any]:
        replies, seconds = measure(url, ours, tasks, clients)
        return {
            **summary(replies, seconds),
            "resident MB": resident_megabytes(pid),
            "texts": [r.text for r in replies],
        }

    measure(url, ours, tasks[:WARM_UP], 4)  # loads adapters, fills the prefix cache
    results.part("ours, one at a time", lambda: timed(1))
    results.part(f"ours, {arguments.clients} clients", lambda: timed(arguments.clients))
    results.part("overload", lambda: asyncio.run(overload(url, tasks)))
    results.part("health during a long prefill", lambda: asyncio.run(health(url)))
    if arguments.soak:
        results.part("memory", lambda: soak(url, pid, ours, tasks, arguments))


def measure_peers(
    results: Results,
    model: Path,
    count_tokens: Callable[[str], int],
    tasks: Sequence[Task],
    arguments: argparse.Namespace,
) -> None:
    transformers = Path(sys.executable).with_name("transformers")
    peers = {"transformers serve": f"{transformers} serve {model} --port {{port}} --device cpu"}
    peers |= _named(arguments.peer)
    models, loras = _named(arguments.peer_model), _named(arguments.peer_lora)
    for name, command in peers.items():

        def timed(name: str = name, command: str = command) -> dict[str, Any]:
            try:
                with server(command.replace("{model}", str(model))) as (url, pid):
                    known = (
                        str(model) if name == "transformers serve" else models.get(name) or first_model(url)
                    )
                    peer = ask_peer(known, loras.get(name), count_tokens)
                    measure(url, peer, tasks[:4], 1)
                    replies, seconds = measure(url, peer, tasks, arguments.clients)
                    return {**summary(replies, seconds), "resident MB": resident_megabytes(pid)}
            except (RuntimeError, httpx.HTTPError) as error:
                return {"failed": f"{type(error).__name__}: {error}"[:300]}

        results.part(f"{name}, {arguments.clients} clients", timed)


def first_model(url: str) -> str:
    return str(httpx.get(f"{url}/v1/models", timeout=30).json()["data"][0]["id"])


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
    """Resident memory after every twentieth of the requests; the first tenth warms up."""
    step = max(1, arguments.soak // 20)
    sizes = []
    for place in range(0, arguments.soak, step):
        part = [tasks[i % len(tasks)] for i in range(place, min(place + step, arguments.soak))]
        measure(url, ours, part, arguments.clients)
        sizes.append(resident_megabytes(pid))
    steady = sizes[2:] or sizes
    middle = statistics.median(steady)
    return {
        "requests": arguments.soak,
        "MB": sizes,
        "furthest from the median": round(max(abs(size - middle) for size in steady) / middle, 4),
    }


def report(parts: dict[str, Any], tasks: Sequence[Task], clients: int) -> int:
    """Print every figure with what it must be; the exit code."""
    together, alone = parts[f"ours, {clients} clients"], parts["ours, one at a time"]
    print("| server | tokens/s | p50 s | p95 s | first token p50 s | p95 s | resident MB | ours is |")
    print("|---|---|---|---|---|---|---|---|")
    for name, part in parts.items():
        if "failed" in part:
            print(f"| {name} | {part['failed']} | | | | | | |")
        elif "tokens a second" in part:
            ratio = together["tokens a second"] / max(part["tokens a second"], 0.1)
            figures = [part[k] for k in ("tokens a second", "seconds p50", "seconds p95")]
            figures += [part[k] for k in ("first token p50", "first token p95", "resident MB")]
            print(f"| {name} | {' | '.join(map(str, figures))} | {ratio:.2f}x |")
    equal = sum(a == b for a, b in zip(alone["texts"], together["texts"], strict=True))
    print(
        f"\n{equal} of {len(tasks)} answers under load equal those alone (benchmarks/equality.py looks closer)\n"
    )
    checks = [
        _ratio("at least 4 times one at a time", together, alone, 4),
        _ratio(
            "at least 2 times transformers serve",
            together,
            parts.get(f"transformers serve, {clients} clients"),
            2,
        ),
        *(
            _ratio(f"at least 3 times {name}", together, part, 3)
            for name, part in parts.items()
            if "vllm" in name.lower()
        ),
        *_load_checks(parts),
    ]
    failed = 0
    for wanted, found, passed in checks:
        failed += passed is False
        print(f"{'not run' if passed is None else 'pass' if passed else 'FAIL'}: {wanted}: {found}")
    return 1 if failed else 0


def _ratio(
    wanted: str, ours: dict[str, Any], other: dict[str, Any] | None, least: float
) -> tuple[str, str, bool | None]:
    if other is None or "failed" in other:
        return wanted, "-", None
    ratio = ours["tokens a second"] / max(other["tokens a second"], 0.1)
    return wanted, f"{ratio:.2f}", ratio >= least


def _load_checks(parts: dict[str, Any]) -> list[tuple[str, str, bool | None]]:
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
        furthest = memory["furthest from the median"]
        wanted = f"memory within 5 % over {memory['requests']} requests"
        checks.append((wanted, f"{100 * furthest:.1f} %, MB {memory['MB']}", furthest <= FLAT))
    if more := parts.get("one adapter more"):
        share = more["MB"] / more["MB of the file"]
        checks.append(
            ("one adapter more takes at most 1.2 times its file", f"{share:.2f}", share <= ADAPTER_SHARE)
        )
    return checks


def _named(pairs: Sequence[str]) -> dict[str, str]:
    named = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not value:
            sys.exit(f"{pair!r} is not NAME=VALUE")
        named[name] = value
    return named


if __name__ == "__main__":
    main()
