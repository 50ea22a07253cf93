"""The example clients, each run as its users run it, against a real server over the tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from indexer.config import IndexConfig, Workspace
from service.app import create_app
from service.config import ServeConfig
from service.model_thread import ModelThread
from service.workbench import open_workbench
from tests.fakes_server import running, tiny_answerer

CLIENTS = Path(__file__).parent.parent / "examples" / "clients"
QUESTION = 'Who built the "oven"?'
PASSAGE = "The oven was built by Ada Lindqvist"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    answerer = tiny_answerer(tmp_path_factory.mktemp("adapters"))
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    workspace.data.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBOOK_API_KEY", "sesame")
        bench = open_workbench(workspace, IndexConfig())
        with running(create_app(answerer, ModelThread(answerer.generator), ServeConfig(), bench)) as url:
            yield url


def needs(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; the example's README says how")


def output(url: str, *command: str, **more: str) -> str:
    environment = {**os.environ, "OPENBOOK_URL": url, "OPENBOOK_API_KEY": "sesame", **more}
    ran = subprocess.run(command, env=environment, capture_output=True, timeout=150)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode()


def python(url: str, name: str) -> str:
    return output(url, sys.executable, str(CLIENTS / name), QUESTION)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_asks_every_endpoint(url: str) -> None:
    said = output(url, str(CLIENTS / "curl.sh"), QUESTION)
    answers = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    answer, compared, chat, found = answers
    assert answer["question"] == QUESTION
    assert [one["route"] for one in compared["results"]] == ["base", "rag", "tuned", "hybrid"]
    assert chat["choices"][0]["message"]["content"] == answer["answer"]
    assert PASSAGE in found["hits"][0]["text"]
    assert "data: [DONE]" in said.splitlines()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_fails_where_the_service_refuses(url: str) -> None:
    environment = {**os.environ, "OPENBOOK_URL": url, "OPENBOOK_API_KEY": "wrong"}
    ran = subprocess.run([CLIENTS / "curl.sh"], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    assert "invalid_api_key" in ran.stdout or "unauthorized" in ran.stdout


def told_of_every_route(url: str, said: str) -> None:
    for route in ("base", "rag", "tuned", "hybrid"):
        reply = httpx.post(
            f"{url}/v1/answer",
            json={"question": QUESTION, "route": route},
            headers={"Authorization": "Bearer sesame"},
        )
        answer = reply.json()["answer"]
        assert answer
        assert f"{route}: {answer} (" in said
        assert f"  streamed: {answer}\n" in said


def test_openai_for_python_tours_the_routes(url: str) -> None:
    needs("openai")
    told_of_every_route(url, python(url, "openai_client.py"))


def test_openai_for_javascript_tours_the_routes(url: str, tmp_path: Path) -> None:
    modules = os.environ.get("OPENBOOK_NODE_MODULES")
    if modules is None or shutil.which("node") is None:
        pytest.skip("node, or OPENBOOK_NODE_MODULES (a node_modules folder with openai in it), is missing")
    (tmp_path / "node_modules").symlink_to(modules)
    shutil.copy(CLIENTS / "openai_client.mjs", tmp_path)
    told_of_every_route(url, output(url, "node", str(tmp_path / "openai_client.mjs"), QUESTION))


def test_langchain_retrieves(url: str) -> None:
    needs("langchain_core")
    assert PASSAGE in python(url, "langchain_retriever.py").splitlines()[0]


def test_llamaindex_retrieves(url: str) -> None:
    needs("llama_index")
    assert PASSAGE in python(url, "llamaindex_retriever.py").splitlines()[0]


CALL_THE_TOOL = """
import asyncio, os, sys
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

async def main():
    server = StdioServerParameters(command=sys.executable, args=[sys.argv[1]], env=dict(os.environ))
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        print([tool.name for tool in (await session.list_tools()).tools])
        for route in ("hybrid", "nonsense"):
            result = await session.call_tool("ask", {"question": sys.argv[2], "route": route})
            print(result.content[0].text)

asyncio.run(main())
"""


def test_mcp_tool_answers_with_its_passages(url: str) -> None:
    needs("mcp")
    said = output(url, sys.executable, "-c", CALL_THE_TOOL, str(CLIENTS / "mcp_server.py"), QUESTION)
    assert said.startswith("['ask']\n")
    assert PASSAGE in said
    assert "unknown route 'nonsense'" in said
