"""Tables as text: Markdown rows for those inside a document, a section a row for CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from indexer.corpus import CorpusError

_HEADING_CHARACTERS = 80


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """`| a | b |` lines, the first row as the header; empty if no cell holds anything."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    if not any(any(row) for row in cells):
        return ""
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|" + " --- |" * len(cells[0]))
    return "\n".join(lines)


def parse_csv(data: bytes) -> tuple[None, str]:
    """A section a row, headed by its first cell, and a `column: value` line a cell.

    So a chunk is one row and says what its values mean (docs/decisions/0004-untrusted-files.md). The first row
    names the columns; empty cells are left out. The delimiter is the one of comma, semicolon, tab and bar that the
    first row has most of.
    """
    text = data.decode("utf-8-sig")
    first_row = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t|", key=first_row.count)
    csv.field_size_limit(max(len(text) + 1, csv.field_size_limit()))  # for all of the process: never lowered
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [name.strip() for name in next(rows, [])]
        sections = [_section(columns, row) for row in rows]
    except csv.Error as error:
        raise CorpusError(f"line {rows.line_num}: not CSV ({error}); repair or remove it") from error
    return None, "\n\n".join(filter(None, sections)) or ", ".join(filter(None, columns))


def _section(columns: Sequence[str], row: Sequence[str]) -> str:
    names = [*columns, *[""] * (len(row) - len(columns))]
    cells = [
        (name, cell) for name, value in zip(names, row, strict=False) if (cell := " ".join(value.split()))
    ]
    if not cells:
        return ""
    lines = (f"{name}: {cell}" if name else cell for name, cell in cells)
    return f"## {cells[0][1][:_HEADING_CHARACTERS]}\n\n" + "\n".join(lines)
