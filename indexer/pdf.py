"""PDF pages back to headings and paragraphs, which they hold only as lines with a place and a size."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Any

import pypdf

_HEADING_SIZE = 1.15
"""How much larger than the body a line must be set to count as a heading."""

_PARAGRAPH_GAP = 1.25
"""How much farther than usual a line must be from the one above to begin a paragraph."""

_LONGEST_HEADING = 200
_BULLET = re.compile(r"[-*\u2022\u2013\u25aa\x7f\uf0b7]\s+")
_NUMBER = re.compile(r"\d+[.)]\s")
_NO_TITLE = {"untitled", "(anonymous)", ""}


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    page: int
    y: float
    size: float


def parse_pdf(data: bytes) -> tuple[str | None, str]:
    """The title in the PDF's own metadata, if any, and its text with `#` headings."""
    reader = pypdf.PdfReader(io.BytesIO(data))
    title = str((reader.metadata and reader.metadata.title) or "")
    lines = [line for number, page in enumerate(reader.pages) for line in _lines(page, number)]
    return None if title.strip().lower() in _NO_TITLE else title, _paragraphs(lines)


def _lines(page: pypdf.PageObject, number: int) -> list[_Line]:
    lines: list[_Line] = []
    text, y, size = "", 0.0, 0.0

    def visit(part: str, place: list[float], matrix: list[float], _font: Any, font_size: float) -> None:
        nonlocal text, y, size
        for piece in part.splitlines(keepends=True):
            if piece.strip() and not text.strip():
                y = matrix[4] * place[1] + matrix[5] * place[3] + place[5]
                size = abs(font_size * matrix[3] * place[3])
            text += piece
            if piece.endswith("\n"):
                end_line()

    def end_line() -> None:
        nonlocal text
        if visible := " ".join(text.split()):
            lines.append(_Line(visible, number, y, round(size, 1)))
        text = ""

    page.extract_text(visitor_text=visit)
    end_line()
    return lines


def _paragraphs(lines: Sequence[_Line]) -> str:
    if not lines:
        return ""
    sizes: Counter[float] = Counter()
    for line in lines:
        sizes[line.size] += len(line.text)
    body = sizes.most_common(1)[0][0]
    heading_sizes = sorted((size for size in sizes if size > body * _HEADING_SIZE), reverse=True)
    below = [(above, line) for above, line in pairwise(lines) if above.size == line.size and above.y > line.y]
    usual_gap = median_low([_gap(above, line) for above, line in below] or [0.0])

    paragraphs: list[tuple[str, float]] = []
    for above, line in zip([None, *lines], lines, strict=False):
        text = _BULLET.sub("- ", line.text, count=1) if _BULLET.match(line.text) else line.text
        if above is not None and _continues(above, line, usual_gap):
            paragraphs[-1] = (_join(paragraphs[-1][0], text), line.size)
        else:
            paragraphs.append((text, line.size))
    return "\n\n".join(
        f"{'#' * min(heading_sizes.index(size) + 1, 6)} {text}"
        if size in heading_sizes and len(text) <= _LONGEST_HEADING
        else text
        for text, size in paragraphs
    )


def _continues(above: _Line, line: _Line, usual_gap: float) -> bool:
    """Whether `line` belongs to the paragraph of the line above it."""
    if line.size != above.size or _BULLET.match(line.text) or _NUMBER.match(line.text):
        return False
    if line.page != above.page or line.y > above.y:  # next page or column: only a sentence cut in two goes on
        return not above.text.endswith((".", "!", "?", ":"))
    return _gap(above, line) <= usual_gap * _PARAGRAPH_GAP


def _gap(above: _Line, line: _Line) -> float:
    """Distance between two lines of one size, in that size."""
    return (above.y - line.y) / (line.size or 1.0)


def _join(text: str, line: str) -> str:
    """Put a wrapped line back, also where a word was hyphenated."""
    if re.search(r"[a-z]-$", text) and line[:1].islower():
        return text[:-1] + line
    return f"{text} {line}"
