"""A real server on a real port, in this process: the tiny model, a few sentences, uvicorn."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from service.answering import Answerer
from service.app import create_app
from service.config import RouteConfig, ServeConfig
from service.generation import LocalGenerator
from service.model_thread import ModelThread
from service.workbench import Workbench
from tests.fakes_service import make_answerer
from tests.tiny import tiny_adapter, tiny_base
from tuner.registry import Registry


def tiny_answerer(root: Path) -> Answerer:
    """The standard routes over the tiny model, answers of up to 24 tokens."""
    base = tiny_base()
    tiny_adapter(root, base)
    tables = {name: RouteConfig(max_new_tokens=24) for name in ("base", "tuned")}
    tables |= {name: RouteConfig(max_new_tokens=24, k=2) for name in ("rag", "hybrid")}
    return make_answerer(root, LocalGenerator(base, Registry(root)), base, tables=tables)


@contextmanager
def serving(
    answerer: Answerer, thread: ModelThread, config: ServeConfig, bench: Workbench | None = None
) -> Iterator[str]:
    """The URL of the service while it runs."""
    with running(create_app(answerer, thread, config, bench)) as url:
        yield url


@contextmanager
def running(app: ASGIApp, log_level: str = "error") -> Iterator[str]:
    """The URL of any application while uvicorn runs it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level=log_level, timeout_graceful_shutdown=20))
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        running.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            running.join(20)
