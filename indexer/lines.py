"""JSON Lines files that may come from anywhere, read a line at a time within limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError

from indexer.corpus import CorpusError
from indexer.folder import open_regular

Row = TypeVar("Row", bound=BaseModel)

MAX_LINE_BYTES = 8 << 20
"""JSON of many tiny values takes ten times its length in memory, and it is parsed in this process."""


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character; remove it")
    return text


Text = Annotated[str, AfterValidator(_storable)]
"""What SQLite can hold."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file and where it begins, in bytes."""

    number: int
    offset: int
    data: bytes | None
    """None if it is longer than may be parsed."""


def read_lines(path: Path) -> Iterator[Line]:
    """Each line that is not blank; never more than `MAX_LINE_BYTES` in memory."""
    with open_regular(path) as file:
        number, offset = 0, 0
        while data := file.readline(MAX_LINE_BYTES):
            number += 1
            start, offset = offset, offset + len(data)
            whole = len(data) < MAX_LINE_BYTES or data.endswith(b"\n")
            if not whole:
                while not data.endswith(b"\n") and (data := file.readline(1 << 20)):
                    offset += len(data)
            if not whole or data.strip():
                yield Line(number, start, data if whole else None)


def parse_line(line: Line, model: type[Row]) -> Row:
    """The JSON object on a line as `model`. Raises CorpusError, without the place."""
    if line.data is None:
        raise CorpusError(f"longer than {MAX_LINE_BYTES >> 20} MB; split it into several documents")
    try:
        return model.model_validate_json(line.data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CorpusError(f"not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            what = first["msg"].removeprefix("Invalid JSON: ")
            raise CorpusError(f"not JSON ({what}); each line must be one JSON object") from error
        place = ".".join(str(part) for part in first["loc"]) or "the line"
        raise CorpusError(f"{place}: {first['msg']}") from error
