"""Scores on the dev questions during training: without context, and with the retriever's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.corpus import Question
from indexer.files import hash_json
from tuner.decoding import Sampling, decode
from tuner.examples import Search
from tuner.parallel import ALONE, Group
from tuner.prompt import Context, build_prompt


@dataclass(frozen=True, slots=True)
class Metric:
    """The primary metric and its mean over answers; handed in by the command line, since metrics live in `eval`."""

    name: str
    mean: Callable[[Sequence[str], Sequence[Question]], float]


_FEWEST_TOKENS, _MOST_TOKENS = 16, 64


class DevScorer:
    """Asks the answerable dev questions and scores the answers; prompts are built once.

    The processes of a group share the questions.
    """

    def __init__(
        self,
        tokenizer: Any,
        questions: Sequence[Question],
        search: Search,
        contexts: Sequence[int],
        metric: Metric,
        group: Group = ALONE,
    ) -> None:
        """`contexts` are the numbers of passages to score with; 0 is closed book."""
        self.tokenizer = tokenizer
        answerable = [q for q in questions if q.answerable]
        self.questions, self.group = group.share(answerable), group
        self.weight = len(self.questions) / max(len(answerable), 1)
        self.metric = metric
        self.identity = hash_json(
            [[[q.text, list(q.answers)] for q in answerable], list(contexts), metric.name]
        )
        """Of what is asked and how it is scored, the same in every process."""
        most = max(contexts)
        texts = [q.text for q in self.questions]
        found = search(texts, most) if most and texts else [[] for _ in texts]
        lengths = [len(tokenizer(q.answers[0], add_special_tokens=False)["input_ids"]) for q in answerable]
        self.answer_tokens = min(_MOST_TOKENS, max(_FEWEST_TOKENS, *lengths, 0))
        """As long as the longest right answer, within reason: one that is cut off would be scored too low."""
        self.prompts = {
            count: [
                build_prompt(tokenizer, q.text, [Context(p.title, p.text) for p in passages[:count]])
                for q, passages in zip(self.questions, found, strict=True)
            ]
            for count in contexts
        }

    def __call__(self, model: Any) -> dict[str, float]:
        """Score by number of passages, and their mean as `score`."""
        sampling = [Sampling(self.answer_tokens)] * len(self.questions)
        scores = {}
        for count, prompts in self.prompts.items():
            decoded = decode(model, self.tokenizer, prompts, sampling)
            name = f"open_book_{count}" if count else "closed_book"
            mine = self.metric.mean([d.text for d in decoded], self.questions) if self.questions else 0.0
            scores[name] = self.group.sum(self.weight * mine)
        return {**scores, "score": sum(scores.values()) / len(scores)}
