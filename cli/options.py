"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from indexer.config import Workspace

F = TypeVar("F", bound=Callable[..., Any])


def workspace_option(command: F) -> F:
    """`--workspace DIR`, handed on as a Workspace."""
    return click.option(
        "--workspace",
        "-w",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(),
        callback=lambda _context, _option, value: Workspace(value.resolve()),
        help="Folder with openbook.toml (default: here).",
    )(command)


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def words(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse a text of nothing but spaces, or of bytes that are no text."""
    if not value.strip():
        raise click.BadParameter(f"the {parameter.name} is empty; put words in it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter(f"the {parameter.name} is no UTF-8 text; send it in UTF-8") from error
    return value
