"""Word and PowerPoint files to Markdown. Not read: headers, footers, footnotes, comments, pictures, charts."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

from indexer.corpus import CorpusError
from indexer.tables import markdown_table

_MAX_UNPACKED_BYTES = 256 << 20

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_LEFT_OUT = {_WORD + "del", _WORD + "moveFrom", _WORD + "pPr", _WORD + "rPr", _FALLBACK}
"""Deleted text, formatting, and what a program too old for the text beside it would show."""
_BREAKS = {_WORD + "tab": " ", _WORD + "br": "\n", _WORD + "cr": "\n", _WORD + "noBreakHyphen": "-"}


def parse_docx(data: bytes) -> tuple[str | None, str]:
    """The title in the file's properties, if any, and its headings, paragraphs, lists and tables in order."""
    import docx

    _check_archive(data)
    document = docx.Document(io.BytesIO(data))
    return document.core_properties.title or None, _join(_docx_blocks(document.element.body, document))


def _docx_blocks(container: Any, document: Any) -> Iterator[str]:
    """Markdown of each paragraph and table, also of those inside content controls and tracked insertions."""
    for element in container:
        if element.tag == _WORD + "p":
            if text := _docx_text(element).strip():
                yield _docx_prefix(element, document) + text
        elif element.tag == _WORD + "tbl":
            rows = (row.iterchildren(_WORD + "tc") for row in element.iterchildren(_WORD + "tr"))
            yield markdown_table([[_docx_text(cell) for cell in row] for row in rows])
        elif element.tag not in _LEFT_OUT:
            yield from _docx_blocks(element, document)


def _docx_text(element: Any) -> str:
    """All text below `element`; paragraphs inside (cells, text boxes) on lines of their own."""
    if element.tag == _WORD + "t":
        return element.text or ""
    if element.tag in _BREAKS:
        return _BREAKS[element.tag]
    text = "".join(_docx_text(child) for child in element if child.tag not in _LEFT_OUT)
    return f"{text}\n" if element.tag == _WORD + "p" else text


def _docx_prefix(element: Any, document: Any) -> str:
    from docx.text.paragraph import Paragraph

    style = Paragraph(element, document).style
    for _ in range(9):  # a style of one's own is a heading if it is based on one
        if style is None:
            break
        if style.name == "Title":
            return "# "
        if heading := re.fullmatch(r"Heading (\d)", style.name or ""):
            return "#" * min(int(heading[1]), 6) + " "
        if (style.name or "").startswith("List"):
            return "- "
        style = style.base_style
    return "- " if element.pPr is not None and element.pPr.numPr is not None else ""


def parse_pptx(data: bytes) -> tuple[str | None, str]:
    """The title in the file's properties, if any, and a section a slide, with its tables and speaker notes."""
    import pptx

    _check_archive(data)
    presentation = pptx.Presentation(io.BytesIO(data))
    blocks: list[str] = []
    for number, slide in enumerate(presentation.slides, start=1):
        title = slide.shapes.title
        heading = " ".join(title.text_frame.text.split()) if title is not None else ""
        blocks.append(f"{'#' if number == 1 and heading else '##'} {heading or f'Slide {number}'}")
        blocks += _pptx_blocks(shape for shape in slide.shapes if title is None or shape != title)
        if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame):
            blocks.append(notes.text.strip())
    if all(re.fullmatch(r"## Slide \d+|", block) for block in blocks):
        return None, ""  # slides of pictures
    return presentation.core_properties.title or None, _join(blocks)


def _pptx_blocks(shapes: Iterable[Any]) -> Iterator[str]:
    for shape in sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0)):
        if hasattr(shape, "shapes"):  # a group
            yield from _pptx_blocks(shape.shapes)
        elif shape.has_text_frame:
            lines = [" ".join(paragraph.text.split()) for paragraph in shape.text_frame.paragraphs]
            lines = [line for line in lines if line]
            yield "\n".join(f"- {line}" for line in lines) if len(lines) > 1 else "".join(lines)
        elif shape.has_table:
            yield markdown_table([[cell.text for cell in row.cells] for row in shape.table.rows])


def _check_archive(data: bytes) -> None:
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise CorpusError("encrypted, or of Office 2003 or older; save it in the present format, no password")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MAX_UNPACKED_BYTES:
        raise CorpusError(
            f"unpacks to {unpacked >> 20:,} MB, more than {_MAX_UNPACKED_BYTES >> 20}; remove what is large in it"
        )


def _join(blocks: Iterable[str]) -> str:
    return "\n\n".join(filter(None, blocks))
