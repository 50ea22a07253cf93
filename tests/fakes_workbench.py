"""A workspace with a few documents, a real index over them, and jobs that do next to nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from starlette.testclient import TestClient

from indexer.config import IndexConfig, Workspace
from indexer.parsing import Parser
from indexer.retriever import Index
from indexer.sync import sync
from service.answering import Answerer
from service.app import create_app
from service.config import RouteConfig, ServeConfig, routes_from_config
from service.feedback import Feedback
from service.generation import Generator
from service.jobs import Command, JobKind, Jobs
from service.model_thread import ModelThread
from service.workbench import Workbench
from tests.fakes import HashEncoder
from tests.fakes_service import DOCUMENTS
from tests.tiny import tiny_adapter
from tuner.base_model import BaseModel
from tuner.registry import Registry

TOWER = "How high is the tower?"
CHUNK_TOKENS = 64
REPORT = {"added": 1, "changed": 0, "removed": 0, "skipped": []}
QUICK = f"import json, sys; print('evaluating: 3/7', file=sys.stderr); print(json.dumps({REPORT}))"


def make_workbench(root: Path, script: str = QUICK) -> Workbench:
    """Its documents folder is indexed; every job runs `script`."""
    workspace = Workspace(root)
    for document in DOCUMENTS:
        path = root / "documents" / document.id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {document.title}\n\n{document.text}\n")
    sync(workspace, root / "documents", HashEncoder(), CHUNK_TOKENS)
    commands = dict.fromkeys(JobKind, Command([sys.executable, "-c", script], json.loads))
    return Workbench(
        workspace,
        IndexConfig(chunk_tokens=CHUNK_TOKENS),
        Parser(max_file_mb=1),
        Jobs(workspace.data / "jobs.sqlite", commands),
        Feedback(workspace.data / "feedback.sqlite"),
        patience_seconds=0.2,
    )


def answerer_of(
    bench: Workbench,
    generator: Generator,
    base: BaseModel,
    tables: Mapping[str, RouteConfig],
) -> Answerer:
    """The standard routes over the workbench's index, with one adapter of two versions, the first promoted."""
    registry = Registry(bench.workspace.adapters)
    first = tiny_adapter(bench.workspace.adapters, base)
    second = tiny_adapter(bench.workspace.adapters, base, seed=1)
    registry.promote("mixed", first.version)
    curve = [
        {"step": 10 * n, "tokens": 1000 * n, "loss": 3.0 / n, "dev": {"f1": 0.1 * n}} for n in range(1, 6)
    ]
    (second.path / "curve.json").write_text(json.dumps(curve))
    encoder = HashEncoder()
    index = Index.open(bench.workspace, encoder)
    return Answerer(
        base, cast("Generator", generator), index, registry, routes_from_config(tables), (), encoder
    )


def connect(bench: Workbench, answerer: Answerer, config: ServeConfig) -> TestClient:
    """A client of the service over the workbench; used in a `with`, the service starts and ends with it."""
    app = create_app(answerer, ModelThread(answerer.generator), config, bench)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


def error_code(client: TestClient, method: str, path: str, **more: Any) -> tuple[int, str]:
    response = client.request(method, path, **more)
    return response.status_code, response.json()["error"]["code"]


def ask(client: TestClient, route: str = "rag", question: str = TOWER) -> Any:
    return client.post("/v1/answer", json={"question": question, "route": route}).json()
