"""How a service that runs in the foreground is ended."""

import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

import pytest

PROGRAM = textwrap.dedent(
    """
    import asyncio, signal, sys, threading
    from contextlib import asynccontextmanager

    import torch
    from fastapi import FastAPI
    from service.commands import serve
    from service.config import ServeConfig

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    closing = threading.Event()

    def compute():
        a = torch.randn(1500, 1500)
        while not closing.is_set():
            a @ a

    @asynccontextmanager
    async def with_model_thread(app):
        thread = threading.Thread(target=compute, daemon=True)
        thread.start()
        yield
        closing.set()
        thread.join()

    app = FastAPI(lifespan=with_model_thread)

    @app.get("/slow")
    async def slow():
        await asyncio.sleep(float(sys.argv[2]))
        return "done"

    @app.get("/up")
    async def up():
        return "up"

    serve(app, ServeConfig(port=int(sys.argv[1])))
    """
)


@contextmanager
def asked(seconds: float) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """A service, and a client that it will answer after so many seconds."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    service = python(PROGRAM, url.rpartition(":")[2], str(seconds))
    client = None
    try:
        until_up(service, url)
        client = python(f"import urllib.request as r; print(r.urlopen('{url}/slow').read().decode())")
        time.sleep(1.0)
        yield service, client
    finally:
        for process in filter(None, (service, client)):
            process.kill()
            process.communicate()


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_up(service: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{url}/up", timeout=5).close()
        except OSError:
            assert service.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def test_what_is_under_way_is_finished_when_it_is_interrupted() -> None:
    with asked(seconds=2) as (service, client):
        service.send_signal(signal.SIGINT)
        assert client.communicate(timeout=20)[0].strip() == '"done"'
        assert service.wait(20) == 0


def test_interrupted_twice_it_ends_at_once_with_a_line_and_no_crash() -> None:
    with asked(seconds=60) as (service, _):
        service.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            service.wait(1)
        service.send_signal(signal.SIGINT)
        said = service.communicate(timeout=20)[1]
        assert service.returncode == 130
        assert "ended at once; answers under way are lost" in said
        assert "terminate called" not in said
