"""Files of every supported format to plain text with `#` headings and `| a | b |` table rows."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from indexer.corpus import CorpusError

FORMATS_VERSION = 1
"""Raised when the same bytes would now give another text, so that a sync parses unchanged files again."""

Parsed = tuple[str | None, str]
"""The title a file declares for itself, if any, and its text."""


def read_file(path: Path) -> tuple[str, str]:
    """Title and text of a file whose suffix is in `SUFFIXES`.

    The title is the one the file declares, else its first level-1 heading, else its name made readable.
    """
    try:
        declared, text = _PARSERS[path.suffix.lower()](path.read_bytes())
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except ImportError:
        raise  # the installation is broken, not the file
    except Exception as error:  # parsers raise anything on damaged input
        raise CorpusError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); repair or remove it"
        ) from error
    text = _clean(text)
    if not text.strip():
        raise CorpusError(f"{path}: holds no text (a scan or an empty file?); add its text or remove it")
    title = " ".join(_clean(declared or "").split()) or _first_heading(text) or _readable_name(path)
    return title, text


def _parse_text(data: bytes) -> Parsed:
    return None, data.decode("utf-8-sig")


def _parse_rst(data: bytes) -> Parsed:
    """Underlined (and overlined) titles become `#` headings, with levels in order of first appearance."""
    lines = data.decode("utf-8-sig").splitlines()
    levels: dict[str, int] = {}
    result: list[str] = []
    for line in lines:
        title = result[-1].strip() if result else ""
        if title and not title.startswith("#") and _is_adornment(line) and len(line.rstrip()) >= len(title):
            if _is_adornment(title):
                result.append(line)
                continue
            overlined = len(result) > 1 and result[-2] == line
            level = levels.setdefault(line[0] * (2 if overlined else 1), len(levels) + 1)
            del result[-2 if overlined else -1 :]
            result.append(f"{'#' * min(level, 6)} {title}")
        else:
            result.append(line)
    return None, "\n".join(result)


def _is_adornment(line: str) -> bool:
    return re.fullmatch(r"([=\-~^\"'`#*+.:_])\1{2,}\s*", line) is not None


def _parse_html(data: bytes) -> Parsed:
    """The main content, without navigation and footers; a page too small to have any is taken whole."""
    import trafilatura  # slow to import, needed for this format only

    text = trafilatura.extract(
        data,
        output_format="markdown",
        include_formatting=True,
        include_tables=True,
        include_links=False,
        include_comments=False,
        favor_recall=True,
    )
    if not text:
        return None, trafilatura.html2txt(data)
    lines = (line.rstrip() for line in _MARKDOWN_ESCAPE.sub(r"\1", text).splitlines())
    text = "\n".join(lines)
    # The first heading names the page better than <title>, which tends to carry the name of the site.
    return _first_heading(text) or trafilatura.extract_metadata(data).title, text


_MARKDOWN_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!|<>~-])")


def _parse_pdf(data: bytes) -> Parsed:
    from indexer.pdf import parse_pdf

    return parse_pdf(data)


def _parse_docx(data: bytes) -> Parsed:
    import docx

    document = docx.Document(io.BytesIO(data))
    return document.core_properties.title or None, "\n".join(_docx_blocks(document))


def _docx_blocks(document: Any) -> Iterator[str]:
    """Markdown of a python-docx document's paragraphs and tables, each followed by a blank line."""
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            for row in block.rows:
                yield "| " + " | ".join(" ".join(cell.text.split()) for cell in row.cells) + " |"
        elif text := block.text.strip():
            yield _docx_prefix(block.style.name if block.style else "") + text
        yield ""


def _docx_prefix(style: str) -> str:
    if style == "Title":
        return "# "
    if heading := re.fullmatch(r"Heading (\d)", style):
        return "#" * min(int(heading[1]), 6) + " "
    return "- " if style.startswith("List") else ""


_PARSERS: Mapping[str, Callable[[bytes], Parsed]] = MappingProxyType(
    {
        ".md": _parse_text,
        ".markdown": _parse_text,
        ".txt": _parse_text,
        ".rst": _parse_rst,
        ".html": _parse_html,
        ".htm": _parse_html,
        ".pdf": _parse_pdf,
        ".docx": _parse_docx,
    }
)

SUFFIXES = frozenset(_PARSERS)
"""The file name endings openbook reads, lower case with the dot."""


def _clean(text: str) -> str:
    """One kind of line end, and none of the characters that SQLite or UTF-8 cannot hold."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    return text.encode("utf-8", "replace").decode("utf-8")


def _first_heading(text: str) -> str | None:
    match = re.search(r"^#[ \t]+(.+?)[ \t]*#*[ \t]*$", text, re.MULTILINE)
    return match[1] if match else None


def _readable_name(path: Path) -> str:
    words = re.sub(r"[-_\s]+", " ", path.stem).strip() or path.stem
    return words[:1].upper() + words[1:]
