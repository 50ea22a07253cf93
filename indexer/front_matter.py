"""YAML front matter of Markdown: what is known of a document, above its text.

Only for the process with limits of `indexer.parsing`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

import yaml

from indexer.corpus import CorpusError

_MAX_CHARACTERS = 64_000
_MAX_DEPTH = 32
_MAX_BITS = 3400
"""Of a whole number: about the 1,024 digits that metadata may have."""
# PyYAML's constructors raise these for a tag that does not fit its value, such as `!!bool "maybe"`.
_OF_A_TAG = (ValueError, OverflowError, LookupError, AttributeError, TypeError)

_OPENING = re.compile(r"---[ \t]*\r?\n")
_CLOSING = re.compile(r"^(?:---|\.\.\.)[ \t]*\r?$", re.MULTILINE)


class FrontMatter(NamedTuple):
    """What stands between the lines `---`, and the text below them."""

    title: str | None
    metadata: dict[str, str | float | bool]
    text: str


def read_front_matter(text: str) -> FrontMatter | None:
    """The front matter of a Markdown text; None if it has none: `---` may also be a rule above other text.

    Lists, tables and empty values are left out, since a filter compares single ones. Raises CorpusError if it is YAML
    that cannot be used.
    """
    opening = _OPENING.match(text)
    if opening is None:
        return None
    closing = _CLOSING.search(text, opening.end(), opening.end() + _MAX_CHARACTERS)
    if closing is None:
        return None
    values = _load(text[opening.end() : closing.start()])
    if not isinstance(values, Mapping):
        return None
    scalars = {str(key): _scalar(value) for key, value in values.items()}
    metadata = {key: value for key, value in scalars.items() if value is not None}
    title = metadata.pop("title", None)
    below = text[closing.end() :].lstrip("\r\n")
    return FrontMatter(None if title is None else str(title), metadata, below)


def _load(block: str) -> object:
    """The value of a block of YAML without aliases, which can make a few lines stand for gigabytes."""
    try:
        depth = 0
        for event in yaml.parse(block, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise CorpusError(
                    f"front matter: the alias *{(event.anchor or '')[:40]}; write the value out"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise CorpusError(f"front matter: nested more than {_MAX_DEPTH} deep; make it flat")
        return yaml.safe_load(block)
    except (yaml.YAMLError, *_OF_A_TAG) as error:
        if isinstance(error, CorpusError):
            raise
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 2}: " if mark else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())[:100]
        raise CorpusError(
            f"front matter: not YAML that can be used ({place}{what}); repair it, or put a blank line above it"
        ) from error


def _scalar(value: object) -> str | float | bool | None:
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise CorpusError(
            "front matter: holds a number of more than 1,000 digits; put it in quotes or shorten it"
        )
    return value if isinstance(value, str | bool | int | float) else None
