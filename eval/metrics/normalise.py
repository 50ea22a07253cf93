"""The official SQuAD normalisation, shared by the metrics that compare words."""

from __future__ import annotations

import re
import string

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised_tokens(text: str) -> list[str]:
    """Lower-cased words without ASCII punctuation and English articles, as the official script makes them."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
