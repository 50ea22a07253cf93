"""Bytes of every supported format to plain text with `#` headings and `| a | b |` table rows.

What is not plain text is for `indexer.parsing` to call, in a process with limits.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from indexer.corpus import CorpusError
from indexer.metadata import check_metadata

if TYPE_CHECKING:
    from indexer.front_matter import FrontMatter

FORMATS_VERSION = 3
"""Raised when the same bytes would now give another text, so that a sync parses unchanged files again."""

MAX_TEXT_CHARACTERS = 16_000_000
"""Several thousand pages; more is a bomb or belongs into several documents."""

_MAX_TITLE_CHARACTERS = 200

Parsed = tuple[str | None, str]
"""The title a file declares for itself, if any, and its text."""


class Content(NamedTuple):
    """What a file says."""

    title: str
    text: str
    metadata: dict[str, str | float | bool]


def parse(name: str, data: bytes) -> Content:
    """Title, text and metadata of the file `name`, whose suffix is in `SUFFIXES`. Raises CorpusError without the name.

    The title is the one the file declares, else its first level-1 heading, else its name made readable.
    """
    metadata: dict[str, str | float | bool] = {}
    try:
        declared, text = _PARSERS[suffix_of(name)](data)
        if may_have_front_matter(name, data) and (found := _front_matter(text)):
            declared, metadata, text = found
    except (CorpusError, ImportError, MemoryError):
        raise  # ImportError: the installation is broken, not the file
    except UnicodeDecodeError as error:
        raise CorpusError(f"not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except Exception as error:  # parsers raise anything on damaged input
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CorpusError(f"cannot be read ({what}); repair or remove it") from error
    if len(text) > MAX_TEXT_CHARACTERS:
        raise CorpusError(
            f"holds {len(text):,} characters of text, more than {MAX_TEXT_CHARACTERS:,}; split it"
        )
    text = _clean(text)
    if not text.strip():
        raise CorpusError("holds no text (a scan or an empty file?); add its text or remove it")
    title = " ".join(_clean(declared or "").split()) or _first_heading(text) or _readable_name(name)
    return Content(title[:_MAX_TITLE_CHARACTERS], text, _clean_metadata(metadata))


def may_have_front_matter(name: str, data: bytes) -> bool:
    """Whether there may be YAML above the text, which is for the process with limits."""
    return suffix_of(name) in _MARKDOWN_SUFFIXES and data.removeprefix(b"\xef\xbb\xbf").startswith(b"---")


def suffix_of(name: str) -> str:
    """The ending that decides the format, lower case with the dot; empty if there is none."""
    return PurePosixPath(name).suffix.lower()


def _parse_text(data: bytes) -> Parsed:
    return None, data.decode("utf-8-sig")


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
        return None, trafilatura.html2txt(data) or _all_text(data)
    lines = (line.rstrip() for line in _MARKDOWN_ESCAPE.sub(r"\1", text).splitlines())
    text = "\n".join(lines)
    # The first heading names the page better than <title>, which tends to carry the name of the site.
    return _first_heading(text) or trafilatura.extract_metadata(data).title, text


def _all_text(data: bytes) -> str:
    """What a piece of HTML without `<html>` says."""
    import lxml.etree
    import lxml.html

    try:
        tree = lxml.html.document_fromstring(data)
    except lxml.etree.ParserError:  # empty
        return ""
    lxml.etree.strip_elements(tree, "script", "style", with_tail=False)
    return "\n".join(line for text in tree.itertext() if (line := " ".join(text.split())))


_MARKDOWN_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!|<>~-])")


def _parse_rst(data: bytes) -> Parsed:
    from indexer.rst import parse_rst

    return parse_rst(data)


def _parse_pdf(data: bytes) -> Parsed:
    from indexer.pdf import parse_pdf

    return parse_pdf(data)


def _parse_docx(data: bytes) -> Parsed:
    from indexer.office import parse_docx

    return parse_docx(data)


def _parse_pptx(data: bytes) -> Parsed:
    from indexer.office import parse_pptx

    return parse_pptx(data)


def _parse_csv(data: bytes) -> Parsed:
    from indexer.tables import parse_csv

    return parse_csv(data)


def _front_matter(text: str) -> FrontMatter | None:
    from indexer.front_matter import read_front_matter

    return read_front_matter(text)


_MARKDOWN_SUFFIXES = frozenset({".md", ".markdown"})

PLAIN_SUFFIXES = _MARKDOWN_SUFFIXES | {".txt"}
"""Formats that are only decoded: nothing in them, but front matter, can hurt the process that reads them."""

_PARSERS: Mapping[str, Callable[[bytes], Parsed]] = MappingProxyType(
    {
        **dict.fromkeys(PLAIN_SUFFIXES, _parse_text),
        ".rst": _parse_rst,
        ".html": _parse_html,
        ".htm": _parse_html,
        ".pdf": _parse_pdf,
        ".docx": _parse_docx,
        ".pptx": _parse_pptx,
        ".csv": _parse_csv,
        ".tsv": _parse_csv,
    }
)

SUFFIXES = frozenset(_PARSERS)
"""The file name endings of one document; `.jsonl` files hold many and are for `indexer.sources`."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")


def _clean(text: str) -> str:
    """One kind of line end, no control characters (a terminal may obey them), nothing that UTF-8 cannot hold."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    return _CONTROL.sub("", text).encode("utf-8", "replace").decode("utf-8")


def _clean_metadata(metadata: Mapping[str, str | float | bool]) -> dict[str, str | float | bool]:
    return check_metadata(
        {_clean(key): _clean(value) if isinstance(value, str) else value for key, value in metadata.items()}
    )


def _first_heading(text: str) -> str | None:
    # No regular expression, which would backtrack: this also runs outside the guarded process.
    fenced = False
    for line in io.StringIO(text):
        if line.startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and line.startswith(("# ", "#\t")):
            bare = line[1:].strip()
            if title := bare.rstrip("#").rstrip() or bare:
                return title
    return None


def _readable_name(name: str) -> str:
    stem = PurePosixPath(name).stem
    words = re.sub(r"[-_\s]+", " ", stem).strip() or stem
    return words[:1].upper() + words[1:]
