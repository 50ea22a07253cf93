"""`openbook serve` and `openbook ask`."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sys
from contextlib import suppress

import click
import uvicorn
from fastapi import FastAPI

from service.answer import Answer
from service.config import ServeConfig

_INTERRUPTED, _NOT_STARTED = 130, 3
"""Exit codes: a shell's for Ctrl-C, and uvicorn's."""


def serve(app: FastAPI, config: ServeConfig) -> None:
    """Run until interrupted; requests under way are finished first, unless it is interrupted again."""
    _log_access_plainly()
    host = f"[{config.host}]" if ":" in config.host else config.host
    click.echo(f"openbook listens on http://{host}:{config.port} (interrupt with Ctrl-C)", err=True)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            log_level="warning",
            timeout_graceful_shutdown=max(1, math.ceil(config.timeout_seconds)),
        )
    )
    with suppress(KeyboardInterrupt):  # which uvicorn raises again once it has ended in order
        server.run()
    if server.force_exit:
        # The model thread may be within a token, and an interpreter that ends beside it is aborted with a core dump.
        click.echo("ended at once; answers under way are lost", err=True)
        sys.stderr.flush()
        os._exit(_INTERRUPTED)
    if not server.started:
        sys.exit(_NOT_STARTED)


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
