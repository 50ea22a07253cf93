"""PDF pages back to headings and paragraphs, which they hold only as lines with a place and a size."""

from __future__ import annotations

import ctypes
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

import pypdfium2
from pypdfium2 import raw

from indexer.corpus import CorpusError

_HEADING_SIZE = 1.15
"""How much larger than the body a line must be set to count as a heading."""

_PARAGRAPH_GAP = 1.25
"""How much farther than usual a line must be from the one above to begin a paragraph."""

_LONGEST_HEADING = 200
_BULLET = re.compile(r"[-*\u2022\u2013\u25aa\x7f\uf0b7]\s+")
_NUMBER = re.compile(r"\d+[.)]\s")
_HYPHEN = "\ufffe"
"""What PDFium gives for a hyphen at the end of a line and the line end."""
_LINE = re.compile(rf"([^\r\n{_HYPHEN}]*)(\r?\n|{_HYPHEN}|\Z)")
_NO_TITLE = {"untitled", "(anonymous)", ""}


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    page: int
    y: float
    size: float


def parse_pdf(data: bytes) -> tuple[str | None, str]:
    """The title in the PDF's own metadata, if any, and its text with `#` headings."""
    with closing(_open(data)) as document:
        title = document.get_metadata_value("Title")
        lines = [line for number in range(len(document)) for line in _lines(document, number)]
    return None if title.strip().lower() in _NO_TITLE else title, _paragraphs(lines)


def _open(data: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        # PDFium does not clear its error code, so that it may speak of an earlier file.
        if error.err_code == raw.FPDF_ERR_PASSWORD and b"/Encrypt" in data:
            raise CorpusError("encrypted; save it without a password") from error
        raise CorpusError("no PDF, damaged or without pages; repair or remove it") from error


def _lines(document: pypdfium2.PdfDocument, number: int) -> Iterator[_Line]:
    with closing(document[number]) as page, closing(page.get_textpage()) as text_page:
        position = 0  # in UTF-16 units, as PDFium counts
        for line, end in _LINE.findall(text_page.get_text_range()):
            if visible := " ".join(line.split()):
                y, size = _place(text_page, position + len(line) - len(line.lstrip()))
                yield _Line(visible + ("-" if end == _HYPHEN else ""), number, y, size)
            position += len((line + end).encode("utf-16-le")) // 2


def _place(text_page: pypdfium2.PdfTextPage, position: int) -> tuple[float, float]:
    """Height of the base line of the character at `position`, and the size that it is set in."""
    index = raw.FPDFText_GetCharIndexFromTextIndex(text_page, position)
    x, y = ctypes.c_double(), ctypes.c_double()
    matrix = raw.FS_MATRIX()
    raw.FPDFText_GetCharOrigin(text_page, index, x, y)
    raw.FPDFText_GetMatrix(text_page, index, matrix)
    scale = math.hypot(matrix.b, matrix.d)
    return y.value, round(raw.FPDFText_GetFontSize(text_page, index) * scale, 1)


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

    paragraphs: list[tuple[list[str], float]] = []
    for above, line in zip([None, *lines], lines, strict=False):
        text = _BULLET.sub("- ", line.text, count=1) if _BULLET.match(line.text) else line.text
        if above is not None and _continues(above, line, usual_gap):
            paragraphs[-1][0].append(text)
        else:
            paragraphs.append(([text], line.size))
    joined = ((_join(parts), size) for parts, size in paragraphs)
    return "\n\n".join(
        f"{'#' * min(heading_sizes.index(size) + 1, 6)} {text}"
        if size in heading_sizes and len(text) <= _LONGEST_HEADING
        else text
        for text, size in joined
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


def _join(lines: Sequence[str]) -> str:
    """Wrapped lines as one, also where a word was hyphenated."""
    parts = []
    for line, below in pairwise([*lines, ""]):
        hyphenated = re.fullmatch(r"[a-z]-", line[-2:]) and below[:1].islower()
        parts.append(line[:-1] if hyphenated else f"{line} ")
    return "".join(parts).rstrip()
