"""Our service one request at a time, with 16 clients, and beside `transformers serve`, in one run.

    python benchmarks/serve.py [--requests 128] [--clients 16] [--data ../shared/data/squad-xquad-en]
                               [--workspace FOLDER] [--base MODEL] [--skip-peer] [--soak 0]

Four routes take turns over real questions (those of dev), greedily, up to 32 new tokens. The peer gets the very same
prompts, but answers all of them with the base model: it has no retrieval and switches no adapters. A workspace given
by name is used as it is (with its trained adapter); otherwise a temporary one is indexed and gets a LoRA adapter that
has not been trained, which costs as much as one that has. `--soak N` adds N mixed requests and prints the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

NEW_TOKENS = 32
ROUTES = ("base", "rag", "tuned", "hybrid")
CONFIG = "[model]\nbase = {model!r}\n[index]\ndocuments = {documents!r}\n[eval]\nquestions = {questions!r}\n"
START_SECONDS = 300.0


@dataclass(frozen=True)
class Task:
    """A question for a route, and the prompt that route makes of it."""

    route: str
    question: str
    answers: tuple[str, ...]
    prompt: str
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    text: str
    tokens: int
    first_token: float
    seconds: float


Ask = Callable[[httpx.AsyncClient, Task], Awaitable[Reply]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/squad-xquad-en"))
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--base", default="bundled:smollm2-135m-instruct")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--soak", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.workspace is None and not (arguments.data / "documents.jsonl").is_file():
        print(f"{arguments.data} has no documents.jsonl; name the folder with --data. Skipped.")
        return
    with tempfile.TemporaryDirectory() as temporary:
        workspace = arguments.workspace or Path(temporary)
        if arguments.workspace is None:
            make_workspace(arguments.data.resolve(), arguments.base, workspace)
        run(workspace, arguments)


def run(workspace: Path, arguments: argparse.Namespace) -> None:
    tasks, model_folder, count_tokens = prepare(workspace, arguments.requests)
    ours = ask_ours(count_tokens)
    report: dict[str, object] = {"requests": len(tasks), "clients": arguments.clients}
    openbook = Path(sys.executable).with_name("openbook")
    with server([str(openbook), "serve", "-w", str(workspace), "--port", "{port}"], "/readyz") as (
        url,
        process,
    ):
        measure(url, ours, tasks[:8], 4)  # loads adapters, fills the prefix cache
        single, single_seconds = measure(url, ours, tasks, 1)
        report["ours, one at a time"] = summary(single, single_seconds)
        report["ours, RSS MB before load"] = resident(process)
        together, seconds = measure(url, ours, tasks, arguments.clients)
        report[f"ours, {arguments.clients} clients"] = summary(together, seconds)
        report["ours, RSS MB after load"] = resident(process)
        report["concurrent against single"] = agreement(tasks, single, together)
        if arguments.soak:
            report["soak, RSS MB"] = soak(url, ours, tasks, arguments, process)
    rates = {
        name: value["tokens a second"]
        for name, value in report.items()
        if isinstance(value, dict) and "tokens a second" in value
    }
    if not arguments.skip_peer:
        transformers = Path(sys.executable).with_name("transformers")
        command = [str(transformers), "serve", str(model_folder), "--port", "{port}", "--device", "cpu"]
        with server(command, "/health") as (url, process):
            peer = ask_peer(str(model_folder), count_tokens)
            measure(url, peer, tasks[:2], 1)
            replies, seconds = measure(url, peer, tasks, arguments.clients)
            name = f"transformers serve, {arguments.clients} clients"
            report[name] = summary(replies, seconds)
            rates[name] = report[name]["tokens a second"]
            report["transformers serve, RSS MB"] = resident(process)
    best = rates[f"ours, {arguments.clients} clients"]
    report["ratio of tokens a second"] = {
        f"to {name}": round(best / rate, 2) for name, rate in rates.items() if rate
    }
    print(json.dumps(report, indent=2))


def make_workspace(data: Path, model: str, workspace: Path) -> None:
    """An index of the documents, and an untrained LoRA adapter under the name that the standard routes use."""
    documents, questions = str(data / "documents.jsonl"), str(data / "questions.jsonl")
    (workspace / "openbook.toml").write_text(
        CONFIG.format(model=model, documents=documents, questions=questions)
    )
    openbook = Path(sys.executable).with_name("openbook")
    subprocess.run([openbook, "index", "-w", workspace], check=True)

    from safetensors.torch import save_file

    from indexer.config import Workspace
    from tuner.base_model import load_base
    from tuner.config import TuneConfig
    from tuner.methods import attach
    from tuner.registry import Manifest, Registry

    base = load_base(model)
    attached = attach(base.model, TuneConfig())
    tensors, config = attached.saved()

    def write(folder: Path) -> None:
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))

    empty = {"str": "", "int": 0, "float": 0.0}
    manifest = {
        name: empty.get(str(field.annotation.__name__ if field.annotation else ""), {})
        for name, field in Manifest.model_fields.items()
        if field.is_required() and name != "weights_hash"
    }
    registry = Registry(Workspace(workspace).adapters)
    registry.add("mixed", write, manifest | {"base_model": base.name, "base_model_hash": base.hash})
    registry.promote("mixed", 1)


def prepare(workspace: Path, requests: int) -> tuple[list[Task], Path, Callable[[str], int]]:
    """The tasks, the folder of the base model, and a way to count its tokens."""
    from cli.serve import open_routes
    from indexer.config import Workspace
    from indexer.corpus import Split
    from indexer.readers import read_questions
    from service.config import routes_from_config
    from settings import load_settings
    from tuner.base_model import resolve_model

    place = Workspace(workspace.resolve())
    settings = load_settings(place)
    answerer = open_routes(place, settings, routes_from_config(settings.routes))
    asked = [
        q
        for q in read_questions(place.resolve(settings.eval.questions))
        if q.split is Split.DEV and q.answerable
    ]
    pairs = [(asked[i // len(ROUTES) % len(asked)], ROUTES[i % len(ROUTES)]) for i in range(requests)]
    prepared = answerer.prepare([(q.text, answerer.route(name)) for q, name in pairs])
    tokenizer = answerer.base.tokenizer
    tasks = [
        Task(name, q.text, tuple(q.answers), tokenizer.decode(p.request.prompt), p.request.sampling.stop)
        for (q, name), p in zip(pairs, prepared, strict=True)
    ]
    return tasks, resolve_model(settings.model.base), lambda text: len(tokenizer(text)["input_ids"])


@contextmanager
def server(command: Sequence[str], health: str) -> Iterator[tuple[str, psutil.Process]]:
    """The URL of a server while it runs in a process of its own."""
    port = 20_000 + os.getpid() % 10_000
    started = time.monotonic()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([part.format(port=port) for part in command], stdout=quiet, stderr=quiet)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if httpx.get(url + health, timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
            if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                sys.exit(f"{command[0]} did not start")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def ask_ours(count_tokens: Callable[[str], int]) -> Ask:
    async def ask(client: httpx.AsyncClient, task: Task) -> Reply:
        body = {
            "model": task.route,
            "messages": [{"role": "user", "content": task.question}],
            "max_tokens": NEW_TOKENS,
            "stream": True,
        }
        return await read(
            client, "/v1/chat/completions", body, count_tokens, lambda c: c["delta"].get("content")
        )

    return ask


def ask_peer(model: str, count_tokens: Callable[[str], int]) -> Ask:
    async def ask(client: httpx.AsyncClient, task: Task) -> Reply:
        body = {
            "model": model,
            "prompt": task.prompt,
            "max_tokens": NEW_TOKENS,
            "temperature": 0.0,
            "stream": True,
            **({"stop": list(task.stop)} if task.stop else {}),
        }
        return await read(client, "/v1/completions", body, count_tokens, lambda c: c.get("text"))

    return ask


async def read(
    client: httpx.AsyncClient,
    path: str,
    body: dict[str, object],
    count_tokens: Callable[[str], int],
    text_of: Callable[[dict[str, dict[str, str]]], str | None],
) -> Reply:
    """One streamed reply; a server that is busy is asked again after a moment."""
    started, first, text = time.monotonic(), 0.0, ""
    async with client.stream("POST", path, json=body) as response:
        if response.status_code == 503:
            await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
            return await read(client, path, body, count_tokens, text_of)
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "choices" not in event:
                raise RuntimeError(f"{path}: {event}")
            for choice in event["choices"]:
                if piece := text_of(choice):
                    first = first or time.monotonic() - started
                    text += piece
    seconds = time.monotonic() - started
    return Reply(text, count_tokens(text), first or seconds, seconds)


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
    def percentile(values: Sequence[float], share: float) -> float:
        return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 3)

    times, firsts = [r.seconds for r in replies], [r.first_token for r in replies]
    return {
        "tokens a second": round(sum(r.tokens for r in replies) / seconds, 1),
        "requests a second": round(len(replies) / seconds, 2),
        "seconds p50": percentile(times, 0.5),
        "seconds p95": percentile(times, 0.95),
        "first token p50": percentile(firsts, 0.5),
        "first token p95": percentile(firsts, 0.95),
    }


def agreement(tasks: Sequence[Task], single: Sequence[Reply], together: Sequence[Reply]) -> dict[str, object]:
    """How many answers are the same, and the difference in token F1 with its 95 % interval."""
    from eval.metrics.token_f1 import token_f1

    differences = [
        token_f1(b.text, task.answers) - token_f1(a.text, task.answers)
        for task, a, b in zip(tasks, single, together, strict=True)
    ]
    mean = statistics.fmean(differences)
    half = 1.96 * statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    same = sum(a.text == b.text for a, b in zip(single, together, strict=True))
    return {
        "equal": f"{same} of {len(tasks)}",
        "F1 difference": round(mean, 4),
        "interval": [round(mean - half, 4), round(mean + half, 4)],
    }


def soak(
    url: str, ask: Ask, tasks: Sequence[Task], arguments: argparse.Namespace, process: psutil.Process
) -> list[int]:
    """Memory after every tenth of the requests."""
    left, sizes = arguments.soak, [resident(process)]
    while left > 0:
        part = min(left, max(1, arguments.soak // 10))
        measure(url, ask, [tasks[i % len(tasks)] for i in range(part)], arguments.clients)
        sizes.append(resident(process))
        left -= part
    return sizes


def resident(process: psutil.Process) -> int:
    return round(process.memory_info().rss / 1e6)


if __name__ == "__main__":
    main()
