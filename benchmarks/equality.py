"""Whether an answer under mixed concurrent load is the answer to the same question alone, with real weights.

    python benchmarks/equality.py [--questions 100] [--clients 16] [--dtype float32] [--workspace FOLDER]
                                  [--data ../shared/data/squad-xquad-en] [--base MODEL]

Every route answers every question greedily, one request at a time, and again under load in shuffled order. Of an answer
that differs, the first token that does is looked at: if the two likeliest tokens were as good as equally likely there
(less than a thousandth of a nat apart), it is a tie. In float32 anything else fails the run (exit code 1). In bfloat16,
where batching alone flips some answers, the agreement and the interval of the F1 difference are reported, and the run
fails if the interval leaves one point. The workspace made here (and kept in `benchmarks/results`) has two LoRA adapters
at random that change most answers; a workspace given by name is used with its own adapters.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import httpx
from serving import (
    NEW_TOKENS,
    RESULTS,
    Results,
    Task,
    add_workspace_arguments,
    open_workspace,
    openbook_command,
    prepare,
    server,
)

TIE = 1e-3
"""Nats between the two likeliest tokens below which rounding decides."""
POINT = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workspace_arguments(parser)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--clients", type=int, default=16)
    arguments = parser.parse_args()
    workspace = open_workspace(arguments)
    tasks, _, _ = prepare(workspace, arguments.questions)
    results = Results(
        RESULTS / f"equality-{arguments.dtype}.json",
        {
            "workspace": str(workspace),
            "dtype": arguments.dtype,
            "questions": arguments.questions,
            "clients": arguments.clients,
        },
    )
    command = openbook_command("serve", "-w", str(workspace), "--port", "{port}")
    with server(command, {"OPENBOOK_MODEL__DTYPE": arguments.dtype}) as (url, _):
        routes = list(dict.fromkeys(task.route for task in tasks))
        alone: dict[str, Any] = {}
        for route in routes:
            own = [task for task in tasks if task.route == route]
            alone |= results.part(f"alone, {route}", lambda own=own: ask_all(url, own, 1))
        shuffled = random.Random(0).sample(tasks, len(tasks))
        together = results.part("together", lambda: ask_all(url, shuffled, arguments.clients))
    sys.exit(report(tasks, alone, together, routes, arguments.dtype))


def report(
    tasks: Sequence[Task],
    alone: dict[str, Any],
    together: dict[str, Any],
    routes: Sequence[str],
    dtype: str,
) -> int:
    """Print what was found; the exit code."""
    different = [task for task in tasks if alone[key(task)]["tokens"] != together[key(task)]["tokens"]]
    gaps = {key(task): gap(alone[key(task)], together[key(task)]) for task in different}
    ties = [task for task in different if gaps[key(task)] < TIE]
    print(
        f"{dtype}: {len(tasks) - len(different)} of {len(tasks)} answers equal, {len(ties)} differ at a tie"
    )
    for route in routes:
        own = [task for task in tasks if task.route == route]
        changed = sum(
            alone[key(task)]["text"] != alone[key(task, "base")]["text"] for task in own if "base" in routes
        )
        unequal = sum(task in different for task in own)
        print(
            f"  {route}: {len(own) - unequal} of {len(own)} equal; {changed} are not what base says to the question"
        )
    for task in different:
        print(f"  differs: {key(task)}, {gaps[key(task)]:.6f} nats between the two likeliest tokens")
    mean, half = f1_difference(tasks, alone, together)
    print(f"F1 under load minus F1 alone: {mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]")
    within_a_point = max(abs(mean - half), abs(mean + half)) <= POINT
    passed = len(different) == len(ties) if dtype == "float32" else within_a_point
    print("pass" if passed else "FAIL")
    return 0 if passed else 1


def key(task: Task, route: str | None = None) -> str:
    return f"{route or task.route} {task.question_id}"


def gap(alone: dict[str, Any], together: dict[str, Any]) -> float:
    """Nats between the two likeliest tokens, answered alone, where the answers part."""
    a, b = alone["tokens"], together["tokens"]
    place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    margins = [reply["margins"][place] for reply in (alone, together) if place < len(reply["margins"])]
    return min(margins, default=math.inf)


def f1_difference(
    tasks: Sequence[Task], alone: dict[str, Any], together: dict[str, Any]
) -> tuple[float, float]:
    """Mean and half of the 95 % interval, by question: the routes of one question are not independent."""
    from eval.metrics.token_f1 import token_f1

    by_question: dict[str, list[float]] = {}
    for task in tasks:
        difference = token_f1(together[key(task)]["text"], task.answers) - token_f1(
            alone[key(task)]["text"], task.answers
        )
        by_question.setdefault(task.question_id, []).append(difference)
    means = [statistics.fmean(values) for values in by_question.values()]
    half = 1.96 * statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.inf
    return statistics.fmean(means), half


def ask_all(url: str, tasks: Sequence[Task], clients: int) -> dict[str, Any]:
    """Every reply by route and question: its text, tokens, and how far the likeliest token was ahead at each."""

    async def run() -> list[dict[str, Any]]:
        free = asyncio.Semaphore(clients)
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:

            async def one(task: Task) -> dict[str, Any]:
                async with free:
                    return await ask(client, task)

            return await asyncio.gather(*(one(task) for task in tasks))

    return dict(zip(map(key, tasks), asyncio.run(run()), strict=True))


async def ask(client: httpx.AsyncClient, task: Task) -> dict[str, Any]:
    body = {
        "model": task.route,
        "messages": [{"role": "user", "content": task.question}],
        "max_tokens": NEW_TOKENS,
        "logprobs": True,
        "top_logprobs": 2,
    }
    response = await client.post("/v1/chat/completions", json=body)
    if response.status_code == 503:
        await asyncio.sleep(float(response.headers["Retry-After"]))
        return await ask(client, task)
    response.raise_for_status()
    reply = response.json()
    if reply["model"] != task.route:
        raise RuntimeError(f"asked {task.route}, answered by {reply['model']}")
    choice = reply["choices"][0]
    tokens = choice["logprobs"]["content"]
    best = [[one["logprob"] for one in token["top_logprobs"]] for token in tokens]
    return {
        "text": choice["message"]["content"],
        "tokens": [token["token"] for token in tokens],
        "margins": [round(first - second, 7) for first, second in best],
    }


if __name__ == "__main__":
    main()
