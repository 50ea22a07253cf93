"""What the benchmarks of the service share: a workspace with adapters, servers, requests, and results that are kept.

Imported by `serve.py` and `equality.py`; run by itself it does nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

NEW_TOKENS = 32
START_SECONDS = 600.0
STOP_SECONDS = 60.0
RESULTS = Path(__file__).parent / "results"
EXTRA = 4
"""Adapters beside the two that are compared, to see what one more costs in memory."""
VISIBLE = 0.02
"""Standard deviation of the second LoRA matrix: enough that most answers differ from the base model's."""
CONFIG = """\
[model]
base = {model!r}
dtype = {dtype!r}
[index]
documents = {documents!r}
[eval]
questions = {questions!r}
[routes.other]
adapter = "other"
[routes.other-hybrid]
retrieve = true
adapter = "other"
"""


@dataclass(frozen=True)
class Task:
    """A question for a route, and the prompt that route makes of it."""

    route: str
    adapter: str | None
    question_id: str
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


class Results:
    """Parts of a run in a JSON file; a part that is there is not run again, unless the settings have changed."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        settings = json.loads(json.dumps(settings))
        known = json.loads(path.read_text()) if path.is_file() else {}
        same = known.get("settings") == settings
        self.parts: dict[str, Any] = known["parts"] if same else {}
        self._settings = settings
        if known and not same:
            print(f"{path} is of other settings: starting anew", file=sys.stderr)

    def part(self, name: str, run: Callable[[], Any]) -> Any:
        """What `run` returned, now or in an earlier run."""
        if name not in self.parts:
            print(f"{time.strftime('%H:%M:%S')} {name} ...", file=sys.stderr, flush=True)
            self.parts[name] = json.loads(json.dumps(run()))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside = self._path.with_suffix(".tmp")
            aside.write_text(json.dumps({"settings": self._settings, "parts": self.parts}, indent=1))
            aside.replace(self._path)
        return self.parts[name]


def openbook_command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("openbook")), *arguments]


def make_workspace(data: Path, model: str, dtype: str, workspace: Path) -> None:
    """An index of the documents, and LoRA adapters at random that change what the model says; kept if there."""
    if (workspace / ".made").exists():
        return
    workspace.mkdir(parents=True, exist_ok=True)
    documents, questions = str(data / "documents.jsonl"), str(data / "questions.jsonl")
    config = CONFIG.format(model=model, dtype=dtype, documents=documents, questions=questions)
    extra = "".join(f'[routes.extra{n}]\nadapter = "extra{n}"\n' for n in range(EXTRA))
    (workspace / "openbook.toml").write_text(config + extra)
    subprocess.run(openbook_command("index", "-w", str(workspace)), check=True)

    from indexer.config import Workspace
    from tuner.base_model import load_base
    from tuner.registry import Registry

    base = load_base(model, dtype)
    registry = Registry(Workspace(workspace).adapters)
    for seed, name in enumerate(("mixed", "other", *(f"extra{n}" for n in range(EXTRA)))):
        if not registry.versions(name):
            _add_adapter(registry, base, name, seed)
    (workspace / ".made").touch()


def _add_adapter(registry: Any, base: Any, name: str, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    from tuner.config import TuneConfig
    from tuner.methods import attach
    from tuner.registry import Manifest

    attached = attach(base.model, TuneConfig(seed=seed))
    tensors, config = attached.saved()
    attached.detach()
    generator = torch.Generator().manual_seed(seed)
    for tensor_name, tensor in tensors.items():
        if "lora_B" in tensor_name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * VISIBLE)

    def write(folder: Path) -> None:
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))

    empty = {"str": "", "int": 0, "float": 0.0}
    manifest = {
        field: empty.get(str(info.annotation.__name__ if info.annotation else ""), {})
        for field, info in Manifest.model_fields.items()
        if info.is_required() and field != "weights_hash"
    }
    registry.add(name, write, manifest | {"base_model": base.name, "base_model_hash": base.hash})
    registry.promote(name, 1)


def prepare(
    workspace: Path, questions: int, routes: Sequence[str] | None = None
) -> tuple[list[Task], Path, Callable[[str], int]]:
    """Every route's task for each of the questions, in turn; the base model's folder; a way to count its tokens."""
    from cli.serve import open_routes
    from indexer.config import Workspace
    from indexer.corpus import Split
    from indexer.readers import read_questions
    from service.config import routes_from_config
    from settings import load_settings
    from tuner.base_model import resolve_model

    place = Workspace(workspace.resolve())
    settings = load_settings(place)
    known = routes_from_config(settings.routes)
    names = [name for name in known if not name.startswith("extra")] if routes is None else list(routes)
    answerer = open_routes(place, settings, {name: known[name] for name in names})
    asked = [
        q
        for q in read_questions(place.resolve(settings.eval.questions))
        if q.split is Split.DEV and q.answerable
    ][:questions]
    pairs = [(q, answerer.route(name)) for q in asked for name in names]
    prepared = answerer.prepare([(q.text, route) for q, route in pairs])
    tokenizer = answerer.base.tokenizer
    tasks = [
        Task(
            route.name,
            route.adapter,
            q.id,
            q.text,
            tuple(q.answers),
            tokenizer.decode(p.request.prompt),
            p.request.sampling.stop,
        )
        for (q, route), p in zip(pairs, prepared, strict=True)
    ]
    return tasks, resolve_model(settings.model.base), lambda text: len(tokenizer(text)["input_ids"])


@contextmanager
def server(
    command: str | Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    """The URL and process id of a server while it runs; `{port}` in its command becomes a free one.

    A command that is a URL is of a server that runs already; its process id is 0.
    """
    if isinstance(command, str) and command.startswith("http"):
        yield command.rstrip("/"), 0
        return
    port = 20_000 + os.getpid() % 10_000
    parts = shlex.split(command) if isinstance(command, str) else command
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        [part.replace("{port}", str(port)) for part in parts],
        stdout=quiet,
        stderr=None if "BENCH_LOGS" in os.environ else quiet,
        env={**os.environ, **(environment or {})},
    )
    url = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    try:
        while not _answers(url):
            if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                raise RuntimeError(f"{parts[0]} did not start; set BENCH_LOGS=1 to see why")
            time.sleep(0.5)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _answers(url: str) -> bool:
    """Whether the server is ready: openbook says so at /readyz, others at /health or by listing their models."""
    for path in ("/readyz", "/health", "/v1/models"):
        try:
            if httpx.get(url + path, timeout=5).status_code == 200:
                return True
        except httpx.TransportError:
            return False
    return False


def ask_ours(count_tokens: Callable[[str], int]) -> Ask:
    async def ask(client: httpx.AsyncClient, task: Task) -> Reply:
        body = {
            "model": task.route,
            "messages": [{"role": "user", "content": task.question}],
            "max_tokens": NEW_TOKENS,
            "stream": True,
        }
        return await _read(
            client, "/v1/chat/completions", body, count_tokens, lambda c: c["delta"].get("content")
        )

    return ask


def ask_peer(model: str, lora: str | None, count_tokens: Callable[[str], int]) -> Ask:
    """The same prompts for another server; tasks with an adapter go to `lora`, if the server has one."""

    async def ask(client: httpx.AsyncClient, task: Task) -> Reply:
        body = {
            "model": lora if lora and task.adapter else model,
            "prompt": task.prompt,
            "max_tokens": NEW_TOKENS,
            "temperature": 0.0,
            "stream": True,
            **({"stop": list(task.stop)} if task.stop else {}),
        }
        return await _read(client, "/v1/completions", body, count_tokens, lambda c: c.get("text"))

    return ask


async def _read(
    client: httpx.AsyncClient,
    path: str,
    body: dict[str, object],
    count_tokens: Callable[[str], int],
    text_of: Callable[[dict[str, Any]], str | None],
) -> Reply:
    """One streamed reply; a server that is busy is asked again after a moment."""
    started, first, text = time.monotonic(), 0.0, ""
    async with client.stream("POST", path, json=body) as response:
        if response.status_code == 503:
            await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
            return await _read(client, path, body, count_tokens, text_of)
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
