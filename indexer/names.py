"""Which document ids are allowed, and how any name is shown."""

from __future__ import annotations

import unicodedata

from indexer.corpus import CorpusError

_MAX_CHARACTERS = 1024
_BIDI_CONTROLS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_id(document_id: str) -> None:
    """Raise CorpusError if an id (a relative path, or a name of the user's own) could mislead a reader or a path.

    That is: empty or very long, with a `..` step, or with characters that do not show (control characters, line
    separators, changes of direction, bytes that are not UTF-8).
    """
    if not document_id.strip():
        raise CorpusError("its name is empty; give it one")
    if len(document_id) > _MAX_CHARACTERS:
        raise CorpusError(
            f"its name has {len(document_id)} characters, more than {_MAX_CHARACTERS}; shorten it"
        )
    if ".." in document_id.replace("\\", "/").split("/"):
        raise CorpusError("its name holds a `..` step; rename it")
    if hidden := next((character for character in document_id if _is_hidden(character)), None):
        what = "is not UTF-8" if "\ud800" <= hidden <= "\udfff" else f"holds the character {shown(hidden)}"
        raise CorpusError(f"its name {what}; rename it")


def shown(name: str) -> str:
    """`name` with an escape for each character that a terminal or a log would obey, or could not show."""
    return "".join(
        character.encode("unicode_escape").decode("ascii") if _is_hidden(character) else character
        for character in name
    )


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in _BIDI_CONTROLS
