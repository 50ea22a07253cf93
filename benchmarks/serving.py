"""What the benchmarks of the service share: a workspace with adapters, its questions, servers, and kept results.

Imported by `serve.py`, `equality.py` and `eval.py`; run by itself it does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

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


def add_workspace_arguments(parser: argparse.ArgumentParser) -> None:
    """Which workspace is measured, for `open_workspace`."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data/squad-xquad-en"))
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--base", default="bundled:smollm2-135m-instruct")


def open_workspace(arguments: argparse.Namespace) -> Path:
    """The workspace given by name or else one made of `--data`; without either, the program ends and says so."""
    if arguments.workspace is not None:
        return Path(arguments.workspace)
    if not (arguments.data / "documents.jsonl").is_file():
        print(f"{arguments.data} has no documents.jsonl; name the folder with --data. Skipped.")
        sys.exit()
    make_workspace(arguments.data.resolve(), arguments.base, "auto", RESULTS / "workspace")
    return RESULTS / "workspace"


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
