"""Tables as text: Markdown rows for those inside a document, one labelled paragraph a row for CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from indexer.corpus import CorpusError


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """`| a | b |` lines, the first row as the header; empty if no cell holds anything."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    if not any(any(row) for row in cells):
        return ""
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|" + " --- |" * len(cells[0]))
    return "\n".join(lines)


def parse_csv(data: bytes) -> tuple[None, str]:
    """One paragraph a row, one `column: value` line a cell, so that every chunk says what its values mean.

    The first row names the columns; empty cells are left out. The delimiter is the one of comma, semicolon, tab
    and bar that the first row has most of.
    """
    text = data.decode("utf-8-sig")
    first_row = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t|", key=first_row.count)
    csv.field_size_limit(len(text) + 1)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [name.strip() for name in next(rows, [])]
        paragraphs = [_paragraph(columns, row) for row in rows]
    except csv.Error as error:
        raise CorpusError(f"line {rows.line_num}: not CSV ({error}); repair or remove it") from error
    return None, "\n\n".join(filter(None, paragraphs)) or ", ".join(filter(None, columns))


def _paragraph(columns: Sequence[str], row: Sequence[str]) -> str:
    names = [*columns, *[""] * (len(row) - len(columns))]
    return "\n".join(
        f"{name}: {cell}" if name else cell
        for name, value in zip(names, row, strict=False)
        if (cell := " ".join(value.split()))
    )
