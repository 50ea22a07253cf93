"""More phrasings of each fact, by rule: no other model needed."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

BLANK = "___"

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
_NUMBER = r"\d[\d,.:/]*\d|\d"
_NO_UNIT = (
    r"(?:an?|and|are|as|at|after|before|but|by|during|for|from|had|has|have|he|her|his|in|into|is|it|its|near|of|on|or|"
    r"she|since|so|than|that|the|their|then|they|this|to|until|was|were|when|where|which|while|who|with)\b"
)
_UNIT = rf"(?:\s?%|\s(?!{_NO_UNIT})(?:[a-z]{{1,12}}|°[CF]|[kKMmcd]?[A-Za-z]{{1,4}})\b)?"
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


@dataclass(frozen=True, slots=True)
class PatternQuestion:
    """A question made from one sentence, and its answer."""

    text: str
    answer: str


_LONGEST_ANSWER_WORDS = 12
_SUBJECT = r"(?P<subject>(?:The |An? )?[A-Z][\w'-]*(?: (?:(?:of|the|and|&) )?[\w'-]+){0,4}?)"
_COPULA = re.compile(rf"{_SUBJECT} (?P<verb>is|was|are|were) (?P<rest>(?:an? |the )?[^,;:]+?)[.!]?")
_ACTION = re.compile(
    rf"{_SUBJECT} (?P<verb>[a-z]+ed|drew|built|wrote|made|led|won|found|held|began|gave|chose|sold|taught|ran|cut)"
    r" (?P<rest>[^,;:]+?)[.!]?"
)
_MEASURE = re.compile(
    rf"{_SUBJECT} (?P<verb>weighs|costs|measures|holds|takes|lasts|carries|contains) (?P<rest>\d[^,;:]*?)[.!]?"
)
_DATED = re.compile(
    rf"{_SUBJECT} (?P<verb>was|were) (?P<done>[a-z]+(?:ed|en|t|ade|ilt)) in (?P<rest>(?:[A-Z][a-z]+ )?\d{{4}})[.!]?"
)


def make_pattern_questions(text: str) -> list[PatternQuestion]:
    """Questions in both directions from sentences of simple shapes; sentences that fit none give nothing.

    A model that has only read "A is B" does not know whom B is (Berglund et al. 2023, arXiv:2309.12288).
    """
    return [question for sentence in split_sentences(text) for question in _both_ways(sentence)]


def _both_ways(sentence: str) -> list[PatternQuestion]:
    if found := _DATED.fullmatch(sentence):
        subject = _inside(found["subject"])
        return [PatternQuestion(f"When {found['verb']} {subject} {found['done']}?", found["rest"])]
    if found := _MEASURE.fullmatch(sentence):
        verb = _PLAIN[found["verb"]]
        return [PatternQuestion(f"How much does {_inside(found['subject'])} {verb}?", found["rest"])]
    if found := _COPULA.fullmatch(sentence):
        subject, rest, verb = found["subject"], found["rest"], found["verb"]
        if len(rest.split()) > _LONGEST_ANSWER_WORDS:
            return []
        forward = PatternQuestion(f"What {verb} {_inside(subject)}?", rest)
        backward = PatternQuestion(f"What {verb} {rest}?", subject)
        return [forward, backward] if rest.startswith(("a ", "an ", "the ")) else [forward]
    if found := _ACTION.fullmatch(sentence):
        return [PatternQuestion(f"Who or what {found['verb']} {found['rest']}?", found["subject"])]
    return []


_PLAIN = {
    "weighs": "weigh",
    "costs": "cost",
    "measures": "measure",
    "holds": "hold",
    "takes": "take",
    "lasts": "last",
    "carries": "carry",
    "contains": "contain",
}


def _inside(subject: str) -> str:
    """A subject as it reads within a sentence."""
    article, _, rest = subject.partition(" ")
    return f"{article.lower()} {rest}" if article in ("The", "A", "An") else subject


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
