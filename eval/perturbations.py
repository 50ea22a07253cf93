"""The same question in other words, by rule: what changes is its form, never what it asks for.

Every rule is a pure function of the text (what is drawn is drawn from its hash), and returns the text as it was where
it does not apply.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

from indexer.files import hash_text


class Kind(StrEnum):
    """What can be changed before a route is asked."""

    WORDING = "wording"
    PASSAGES = "passages"
    K = "k"
    POSITION = "position"
    INJECTION = "injection"


SHORTEST_TYPO = 5
"""Letters from which a word may be misspelt."""
TYPOS = 2
"""Words misspelt in a question, if it has as many that are long enough."""

_FRAMES = (
    "Could you please tell me: {question}",
    "I have a question. {question}",
    "{question} Thank you.",
    "Please help me with this. {question}",
)
_REWORDED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^How many (?=\w)", "What number of "),
        (r"^How often (?=\w)", "At what intervals "),
        (r"^Where (?=is|are|was|were|do|does|did|can|must|should)", "In what place "),
        (r"^Why (?=is|are|was|were|do|does|did|must|should)", "For what reason "),
        (r"^Who (?=is|was|has|had|[a-z]+ed\b|[a-z]+s\b)", "Which person or body "),
        (r"^What is (?=\w)", "What's "),
        (r"^Which (?=[a-z]+\b)(?!of\b)", "What "),
        (r"^When (?=is|are|was|were|do|does|did|must|should)", "At what point in time "),
    )
)
# A rule cannot see what a phrase belongs to, so it moves only those that look like a name, a date or "the ...", and
# none that follow a noun's own verb ("the Porter standing at the steps", "the people employed in the yard").
_TRAILING = re.compile(
    r"(?P<rest>.*\S) (?P<phrase>(?:in|at|during|since|before|after) "
    r"(?:(?:the|a|an|each|every|his|her|its|their) [\w' -]+?|[A-Z0-9][\w'-]*(?: [A-Z0-9][\w'-]*)*))(?P<end>[?.]?)"
)
_LONGEST_PHRASE_WORDS = 5
_SHORTEST_REST_WORDS = 3
_BOUND = re.compile(r"(?:.*ing|named|called|look(?:s|ed)?|believed?|interested)", re.IGNORECASE)
_PARTICIPLE = re.compile(r".*ed|.*[^aeiou]en|built|made|held|kept|found|sold|sent|cut|put|set|taught|born")
_PASSIVE = re.compile(r".*\b(?:is|are|was|were|been)\b(?:(?! (?:to|by|for|of|with|that|who|which) ).)*")


def polite(question: str) -> str:
    """Put into a polite frame, one of a few."""
    return _FRAMES[_draw(question).randrange(len(_FRAMES))].format(question=question)


def reordered(question: str) -> str:
    """A time or place at the end put first: "What fails in frost?" becomes "In frost, what fails?"."""
    found = _TRAILING.fullmatch(question)
    if found is None:
        return question
    rest, phrase = found["rest"], found["phrase"]
    *before, last = rest.split()
    loose = not _PARTICIPLE.fullmatch(last) or _PASSIVE.fullmatch(rest)
    short = len(phrase.split()) <= _LONGEST_PHRASE_WORDS and len(before) + 1 >= _SHORTEST_REST_WORDS
    if not (loose and short) or _BOUND.fullmatch(last):
        return question
    return f"{phrase[0].upper()}{phrase[1:]}, {_uncapitalised(rest)}{found['end']}"


def reworded(question: str) -> str:
    """Its first words replaced by others that ask the same."""
    for pattern, replacement in _REWORDED:
        if pattern.match(question):
            return pattern.sub(replacement, question, count=1)
    return question


def lowercase(question: str) -> str:
    """Without capitals."""
    return question.lower()


def uppercase(question: str) -> str:
    """All in capitals."""
    return question.upper()


def without_punctuation(question: str) -> str:
    """Without the question mark and commas, as typed into a search field."""
    return re.sub(r"[,;:](?=\s)|\s*[?.!]+$", "", question)


def typos(question: str) -> str:
    """Two neighbouring letters exchanged in up to two longer words; words with digits stay right."""
    drawn = _draw(question)
    places = [m for m in re.finditer(r"[^\W\d_]+", question) if len(m.group()) >= SHORTEST_TYPO]
    places = [m for m in places if _swappable(m.group()) and not _touches_digit(question, m)]
    text = question
    for match in drawn.sample(places, min(TYPOS, len(places))):
        word = match.group()
        at = drawn.choice(_swappable(word))
        swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        text = text[: match.start()] + swapped + text[match.end() :]
    return text


PARAPHRASES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "polite": polite,
        "reordered": reordered,
        "reworded": reworded,
        "lower case": lowercase,
        "upper case": uppercase,
        "no punctuation": without_punctuation,
        "typos": typos,
    }
)
"""By name, every way to put a question."""


def drawn_order(question: str, count: int) -> list[int]:
    """An order of `count` things other than the given one, drawn for this question; one thing has no other."""
    order = list(range(count))
    drawn = _draw(question)
    while count > 1 and order == sorted(order):
        drawn.shuffle(order)
    return order


def _draw(text: str) -> random.Random:
    """Random numbers of this text alone, whatever else is asked and in which order."""
    return random.Random(hash_text(text))


def _swappable(word: str) -> list[int]:
    """Where two letters inside the word may be exchanged, to some effect; first and last letters stay."""
    return [at for at in range(1, len(word) - 2) if word[at].casefold() != word[at + 1].casefold()]


def _touches_digit(text: str, match: re.Match[str]) -> bool:
    around = text[max(0, match.start() - 2) : match.start()] + text[match.end() : match.end() + 2]
    return any(letter.isdigit() for letter in around)


def _uncapitalised(text: str) -> str:
    """With a small first letter, if its first word is one that is written so within a sentence."""
    first = text.split()[0]
    return text[0].lower() + text[1:] if first in _OPENERS else text


_OPENERS = frozenset(
    {
        *("What", "Which", "Who", "Whom", "Whose", "When", "Where", "Why", "How"),
        *("Is", "Are", "Was", "Were", "Do", "Does", "Did", "Has", "Have", "Can", "Must", "Should", "The"),
        *(
            "By",
            "For",
            "From",
            "On",
            "To",
            "With",
            "At",
            "In",
            "Of",
            "Below",
            "Under",
            "Above",
            "After",
            "Before",
        ),
    }
)
