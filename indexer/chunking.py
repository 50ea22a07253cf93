"""Documents cut into chunks along headings, paragraphs and sentences, with exact offsets."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from indexer.corpus import Document
from indexer.encoding import Passage

CHUNKING_VERSION = 2
"""Raised when the same document would now be cut or embedded differently, so that a sync cuts everything again."""

CountTokens = Callable[[str], int]
Fits = Callable[[int, int], bool]

_MAX_CHARACTERS_PER_TOKEN = 12
"""A tokenizer may count a word of any length as one unknown token; a prompt would still pay for all of it."""


@dataclass(frozen=True, slots=True)
class Span:
    """The chunk `document.text[start:end]`; `heading` is the path of headings above it, joined by ` > `."""

    start: int
    end: int
    heading: str


def chunk(
    document: Document, count_tokens: CountTokens, max_tokens: int, overlap_tokens: int = 0
) -> list[Span]:
    """Cut `document` into ordered spans of at most `max_tokens`, none of which crosses a heading.

    Headings are kept as the path of what follows, not as text; only a heading with nothing below it becomes a
    chunk itself. Every other visible character is in exactly one chunk, unless `overlap_tokens`: then a chunk also
    begins with the last sentences, rows or items of the one before it, of so many tokens together (or words, if
    the last sentence is longer).
    """
    text = document.text

    def fitting(most: int) -> Fits:
        longest = most * _MAX_CHARACTERS_PER_TOKEN
        return lambda start, end: end - start <= longest and count_tokens(text[start:end]) <= most

    fits = fitting(max_tokens - overlap_tokens)
    spans: list[Span] = []
    for heading, blocks in _sections(document):
        pieces = (piece for start, end in blocks for piece in _split(text, start, end, fits))
        merged = _merge(pieces, fits)
        if overlap_tokens:
            merged = _overlap(text, merged, fitting(overlap_tokens), fitting(max_tokens))
        spans += [Span(start, end, heading) for start, end in merged]
    return spans


def embedding_text(document: Document, span: Span) -> Passage:
    """What is embedded for a chunk: its text below its title and headings, which often name the subject."""
    context = " > ".join(part for part in (document.title, span.heading) if part)
    shift = len(context) + 1 - span.start
    sentences = tuple((start + shift, end + shift) for start, end in sentence_spans(document.text, span))
    return Passage(f"{context}\n{document.text[span.start : span.end]}", sentences)


def sentence_spans(text: str, span: Span) -> list[tuple[int, int]]:
    """Offsets of the sentences, list items and table rows of a chunk; very short ones join the next."""
    spans = []
    start = span.start
    for gap in _SENTENCE_GAP.finditer(text, span.start, span.end):
        if gap.start() - start >= _LEAST_SENTENCE_CHARACTERS:
            spans.append((start, gap.start()))
            start = gap.end()
    if spans and span.end - start < _LEAST_SENTENCE_CHARACTERS:
        start = spans.pop()[0]
    return [*spans, (start, span.end)]


@dataclass(frozen=True, slots=True)
class _Heading:
    level: int
    title: str


def _sections(document: Document) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Heading path and paragraphs (as offsets) of each section that has any."""
    path: list[_Heading] = []
    blocks: list[tuple[int, int]] = []
    unfilled: tuple[int, int] | None = None
    for start, end, heading in _blocks(document.text):
        if heading is None:
            blocks.append((start, end))
            unfilled = None
            continue
        if blocks:
            yield _joined(path, document), blocks
            blocks = []
        elif unfilled and heading.level <= path[-1].level:
            yield _joined(path[:-1], document), [unfilled]
        unfilled = (start, end)
        path = [*(above for above in path if above.level < heading.level), heading]
    if blocks:
        yield _joined(path, document), blocks
    elif unfilled:
        yield _joined(path[:-1], document), [unfilled]


def _joined(path: Iterable[_Heading], document: Document) -> str:
    return " > ".join(heading.title for heading in path if heading.title != document.title)


_MAX_HEADING_CHARACTERS = 200
"""A heading is repeated with every chunk below it."""

_HEADING = re.compile(r"(#{1,6})[ \t]+(\S.*)")


def _heading(line: str) -> _Heading | None:
    # Closing hashes are taken off by hand: a regular expression for them backtracks over a hostile line for hours.
    match = _HEADING.fullmatch(line)
    if match is None:
        return None
    title = match[2].rstrip(" \t").rstrip("#").rstrip(" \t") or match[2][0]
    return _Heading(len(match[1]), title[:_MAX_HEADING_CHARACTERS])


def _blocks(text: str) -> Iterator[tuple[int, int, _Heading | None]]:
    """Offsets of each heading line, and of each run of other lines up to a blank line or heading."""
    start = end = position = 0
    fenced = False
    for line in text.splitlines(keepends=True):
        content = line.strip()
        heading = None if fenced else _heading(line.rstrip())
        if start < end and (heading or not content):
            yield start, end, None
            start = end
        if content:
            first, last = position + len(line) - len(line.lstrip()), position + len(line.rstrip())
            if heading:
                yield first, last, heading
                start = end = last
            else:
                start, end = (start if start < end else first), last
        if content.startswith(("```", "~~~")):
            fenced = not fenced  # a `#` line in a code block is a comment
        position += len(line)
    if start < end:
        yield start, end, None


_BOUNDARIES = (
    re.compile(r"(\n\s*)"),
    re.compile(r"(?:(?<=[.!?…])[\"')\]]*(?=\s)|(?<=[。！？]))(\s*+)(?![a-z])"),  # noqa: RUF001
    re.compile(r"(\s+)"),
)
"""Where a paragraph may be cut, best first: between lines, sentences, words. Group 1 is the gap."""


_SENTENCE_GAP = re.compile(
    r"(?<=[.!?…])[\"')\]]*\s+(?![a-z])|(?<=[。！？])\s*|\s*\n\s*(?=[-*+|•]|\d+[.)]\s)|\s*\n\s*\n\s*"  # noqa: RUF001
)
_LEAST_SENTENCE_CHARACTERS = 20


def _split(text: str, start: int, end: int, fits: Fits) -> Iterator[tuple[int, int]]:
    """Halve a span at the best boundary near its middle until the parts fit; a lone character always does."""
    if end - start <= 1 or fits(start, end):
        yield start, end
        return
    left_end, right_start = _cut(text, start, end)
    yield from _split(text, start, left_end, fits)
    yield from _split(text, right_start, end, fits)


def _cut(text: str, start: int, end: int) -> tuple[int, int]:
    """End of the left part and start of the right one; white space between belongs to neither."""
    middle = (start + end) // 2
    for boundary in _BOUNDARIES:
        gaps = (match.span(1) for match in boundary.finditer(text, start, end))
        inside = [gap for gap in gaps if start < gap[0] and gap[1] < end]
        if inside:
            left_end, right_start = min(inside, key=lambda gap: abs(gap[0] - middle))
            return start + len(text[start:left_end].rstrip()), right_start
    return middle, middle


def _merge(pieces: Iterable[tuple[int, int]], fits: Fits) -> list[tuple[int, int]]:
    """Join neighbours, in order, for as long as the result fits."""
    merged: list[tuple[int, int]] = []
    for start, end in pieces:
        if merged and fits(merged[-1][0], end):
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _overlap(text: str, spans: list[tuple[int, int]], repeated: Fits, whole: Fits) -> list[tuple[int, int]]:
    """Each span begun earlier, as far into the one before it as both limits allow."""
    begun = spans[:1]
    for (before, before_end), (start, end) in pairwise(spans):
        for boundary in (_SENTENCE_GAP, _BOUNDARIES[-1]):  # at a word only if no sentence is short enough
            gaps = (gap.end() for gap in boundary.finditer(text, before, before_end))
            starts = [before, *(end_of_gap for end_of_gap in gaps if end_of_gap < before_end)]
            # What begins later is shorter, so the first that fits can be looked for by halves.
            first = bisect_left(starts, True, key=lambda s: repeated(s, before_end) and whole(s, end))
            if starts[first:]:
                start = before_end - len(text[starts[first] : before_end].lstrip())
                break
        begun.append((start, end))
    return begun
