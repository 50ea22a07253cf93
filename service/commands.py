"""`openbook serve` and `openbook ask`."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys

import click
import uvicorn
from fastapi import FastAPI

from service.answer import Answer
from service.config import ServeConfig


def serve(app: FastAPI, config: ServeConfig) -> None:
    """Run until interrupted; requests under way are finished first."""
    _log_access_plainly()
    host = f"[{config.host}]" if ":" in config.host else config.host
    click.echo(f"openbook listens on http://{host}:{config.port} (interrupt with Ctrl-C)", err=True)
    uvicorn.run(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        timeout_graceful_shutdown=max(1, math.ceil(config.timeout_seconds)),
    )


def _log_access_plainly() -> None:
    """Lines for machines must not be folded for people."""
    access = logging.getLogger("openbook.access")
    access.addHandler(logging.StreamHandler(sys.stderr))
    access.propagate = False


def print_answer(answer: Answer, as_json: bool) -> None:
    """Print what a route answered, and what that rests on."""
    click.echo(
        json.dumps(dataclasses.asdict(answer), ensure_ascii=False) if as_json else format_answer(answer)
    )


def format_answer(answer: Answer) -> str:
    """The answer, its citations, and one line about how it was made."""
    lines = [answer.answer or "(empty answer)", ""]
    lines += [
        f"  [{c.number}] {c.title} ({c.document_id}, characters {c.start}-{c.end})" for c in answer.citations
    ]
    if answer.contexts and not answer.citations and not answer.abstained:
        lines.append("  none of the passages shown contains this answer")
    made_by = " + ".join(filter(None, [answer.base_model, answer.adapter]))
    tokens = f"{answer.prompt_tokens} + {answer.completion_tokens} tokens"
    lines.append(f"  {answer.route}: {made_by}, {tokens}, {answer.timings_ms.total:.0f} ms")
    return "\n".join(lines)
