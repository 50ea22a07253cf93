"""The main job with the real bundled weights, as a user runs it: index, tune, eval, serve, edit."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent
SKEIN = ROOT / "examples" / "skein"
FILES = ("hardware/wren-letter-capsule-product-manual.md", "hardware/heron-seal-ring-replacement-guide.md")
CONFIG = """\
[tune]
document_passes = 1
closed_book_passes = 1
open_book_passes = 1
dev_checks = 1
[eval]
resamples = 1000
latency_questions = 1
"""


def openbook(workspace, *arguments, check=True):
    return subprocess.run(
        [sys.executable, "-m", "openbook", *arguments, "--workspace", str(workspace)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=check,
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two documents of the sample, indexed and tuned on."""
    root = tmp_path_factory.mktemp("workspace")
    for name in FILES:
        (root / "documents" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SKEIN / "documents" / name, root / "documents" / name)
    lines = [json.loads(line) for line in (SKEIN / "questions.jsonl").read_text().splitlines()]
    kept = [line for line in lines if set(line["document_ids"]) <= set(FILES)]
    (root / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    (root / "openbook.toml").write_text(CONFIG)
    openbook(root, "index")
    openbook(root, "tune", "--no-gates")  # two documents and hardly any training: it may well fail them
    return root


@pytest.fixture(scope="module")
def service(workspace):
    """`openbook serve` on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "openbook", "serve", "--workspace", str(workspace), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OPENBOOK_API_KEY": ""})
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.2)
    yield url
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) in (0, 130, -signal.SIGINT)


def test_adapter_has_its_manifest_and_is_not_trained_twice(workspace):
    (adapter,) = json.loads(openbook(workspace, "adapters", "list", "--json").stdout)
    assert adapter["adapter"] == "mixed@1"
    assert set(adapter["dev_scores"]) == {"closed_book", "open_book_1", "score"}
    assert "already trained" in openbook(workspace, "tune").stdout
    folder = workspace / ".openbook" / "data" / "adapters" / "mixed" / "1"
    assert {p.name for p in folder.iterdir()} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "manifest.json",
        "curve.json",
        "README.md",
    }


def test_four_routes_are_scored_and_a_second_run_changes_nothing(workspace):
    first = openbook(workspace, "eval", "--no-select", "--json")
    result = json.loads(first.stdout)
    assert list(result["routes"]) == ["base", "rag", "tuned", "hybrid"]
    assert {(c["a"], c["b"]) for c in result["contrasts"]} == {
        ("rag", "base"),
        ("tuned", "base"),
        ("hybrid", "rag"),
        ("hybrid", "tuned"),
    }
    assert result["retrieval"]["recall@5"] > 0.5
    assert result["verdict"]["recommended"] in result["routes"]
    assert json.loads(openbook(workspace, "eval", "--no-select", "--json").stdout) == result
    assert list((workspace / ".openbook").rglob("report.html"))


def test_result_below_the_bar_exits_with_1(workspace):
    failed = openbook(workspace, "eval", "--no-select", "--fail-under", "f1=1.0", check=False)
    assert failed.returncode == 1
    assert "below 1" in failed.stderr


def test_stock_client_gets_an_answer_from_every_route(service):
    client = OpenAI(base_url=f"{service}/v1", api_key="none", max_retries=0)
    routes = [model.id for model in client.models.list()]
    assert routes == ["base", "rag", "tuned", "hybrid"]
    for route in routes:
        asked = [{"role": "user", "content": "Who gave the Wren its shape?"}]
        reply = client.chat.completions.create(model=route, messages=asked)
        assert reply.choices[0].message.content
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    with pytest.raises(NotFoundError, match="rga"):
        client.chat.completions.create(model="rga", messages=asked)
    with pytest.raises(BadRequestError):
        client.chat.completions.create(model="rag", messages=asked, max_tokens=10**6)


def test_edited_document_is_in_the_next_answer_of_the_running_service(workspace, service):
    edits = [json.loads(line) for line in (SKEIN / "changes" / "edits.jsonl").read_text().splitlines()]
    edit = next(e for e in edits if e["document_id"] == FILES[0])

    def shown():
        reply = httpx.post(
            f"{service}/v1/answer", json={"question": edit["question"], "route": "hybrid"}, timeout=60
        )
        return reply.json()["generation"], " ".join(c["text"] for c in reply.json()["contexts"])

    generation, before = shown()
    assert edit["replace"] not in before
    file = workspace / "documents" / edit["document_id"]
    file.write_text(file.read_text().replace(edit["find"], edit["replace"]))
    report = json.loads(openbook(workspace, "index", "--json").stdout)
    assert (report["changed"], report["chunks_embedded"]) == (1, 1)
    later, after = shown()
    assert later == generation + 1
    assert edit["replace"] in after
    assert edit["find"] not in after
