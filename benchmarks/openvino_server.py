"""A peer for `serve.py`: `/v1/completions` over OpenVINO GenAI's continuous batching, streaming only, greedy only.

    python benchmarks/openvino_server.py MODEL --port 9000      # MODEL: a GGUF file, or a folder that OpenVINO reads

Runs in an environment of its own with `pip install openvino-genai`; it needs nothing of openbook's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openvino_genai


class Engine:
    """One thread steps the pipeline while anything runs; requests are added and read from any."""

    def __init__(self, model: str) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_seqs = 32
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU")
        self.tokenizer = self._pipeline.get_tokenizer()
        self._numbers = itertools.count()
        self._work = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, prompt: str, max_tokens: int, stop: list[str], ignore_eos: bool) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.do_sample = False
        config.ignore_eos = ignore_eos
        config.apply_chat_template = False
        if stop:
            config.stop_strings = set(stop)
        with self._work:
            handle = self._pipeline.add_request(next(self._numbers), prompt, config)
            self._work.notify()
        return handle

    def _run(self) -> None:
        while True:
            with self._work:
                while not self._pipeline.has_non_finished_requests():
                    self._work.wait()
                self._pipeline.step()
            time.sleep(0)  # lets those in who add requests


class Handler(BaseHTTPRequestHandler):
    engine: Engine

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": "base"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stop, ignore_eos = body.get("stop", []), body.get("ignore_eos", False)
        handle = self.engine.add(body["prompt"], body["max_tokens"], stop, ignore_eos)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        ids: list[int] = []
        sent = ""
        running = openvino_genai.GenerationStatus.RUNNING
        while handle.get_status() == running or handle.can_read():
            if not handle.can_read():
                time.sleep(0.002)
                continue
            for output in handle.read().values():
                ids += output.generated_ids
            text = self.engine.tokenizer.decode(ids)
            if text.startswith(sent) and not text.endswith("\ufffd"):
                self._send({"choices": [{"text": text[len(sent) :]}]})
                sent = text
        self._send({"choices": [], "usage": {"completion_tokens": len(ids)}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=9000)
    arguments = parser.parse_args()
    Handler.engine = Engine(arguments.model)
    Server(("127.0.0.1", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
