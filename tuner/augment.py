"""More phrasings of each fact, by rule: no other model needed."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

BLANK = "___"

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
_NUMBER = r"\d[\d,.:/]*\d|\d"
_UNIT = r"(?:\s?%|\s(?:[a-z]{1,12}|°[CF]|[kKMmcd]?[A-Za-z]{1,4})\b)?"
_TARGETS = re.compile(
    rf"(?P<number>\b(?:{_NUMBER}){_UNIT})"
    r"|(?P<code>\b[A-Z]{1,4}-?\d[\w-]*)"
    r"|(?P<name>\b[A-Z][\w'-]+(?:\s(?:(?:of|the|and|&)\s)?[A-Z][\w'-]+)*)"
)


@dataclass(frozen=True, slots=True)
class Cloze:
    """A sentence with one term blanked out, and the term."""

    text: str
    answer: str


def split_sentences(text: str) -> list[str]:
    """Sentences (or table rows and list items) of a passage, without blank ones."""
    return [s.strip() for line in text.splitlines() for s in _SENTENCE_END.split(line) if s.strip()]


def shuffle_sentences(text: str, randomness: random.Random) -> str:
    """The same sentences in another order, so that facts are not tied to what happened to stand before them."""
    sentences = split_sentences(text)
    randomness.shuffle(sentences)
    return " ".join(sentences)


def make_clozes(text: str) -> list[Cloze]:
    """Every number with its unit, code and capitalised name blanked in turn; a sentence's first word is no name."""
    clozes = []
    for sentence in split_sentences(text):
        if len(sentence.split()) < 5:
            continue
        for match in _TARGETS.finditer(sentence):
            if match.lastgroup == "name" and match.start() == 0 and " " not in match.group():
                continue
            answer = match.group().strip()
            clozes.append(Cloze(sentence[: match.start()] + BLANK + sentence[match.end() :], answer))
    return clozes
