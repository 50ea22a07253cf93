"""Scores on the dev questions during training: without context, and with the retriever's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from indexer.corpus import Question
from tuner.decoding import Sampling, decode
from tuner.examples import Search
from tuner.prompt import Context, build_prompt

Score = Callable[[Sequence[str], Sequence[Question]], float]
"""Mean primary metric of answers; handed in by the command line, since metrics live in `eval`."""

_ANSWER_TOKENS = 16


class DevScorer:
    """Asks the answerable dev questions and scores the answers; prompts are built once."""

    def __init__(
        self,
        tokenizer: Any,
        questions: Sequence[Question],
        search: Search,
        contexts: Sequence[int],
        score: Score,
    ) -> None:
        """`contexts` are the numbers of passages to score with; 0 is closed book."""
        self.tokenizer = tokenizer
        self.questions = [q for q in questions if q.answerable]
        self.score = score
        most = max(contexts)
        found = search([q.text for q in self.questions], most) if most else [[] for _ in self.questions]
        self.prompts = {
            count: [
                build_prompt(tokenizer, q.text, [Context(p.title, p.text) for p in passages[:count]])
                for q, passages in zip(self.questions, found, strict=True)
            ]
            for count in contexts
        }

    def __call__(self, model: Any) -> dict[str, float]:
        """Score by number of passages, and their mean as `score`."""
        sampling = [Sampling(_ANSWER_TOKENS)] * len(self.questions)
        scores = {}
        for count, prompts in self.prompts.items():
            decoded = decode(model, self.tokenizer, prompts, sampling)
            name = f"open_book_{count}" if count else "closed_book"
            scores[name] = self.score([d.text for d in decoded], self.questions)
        return {**scores, "score": sum(scores.values()) / len(scores)}
