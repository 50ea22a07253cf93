"""The last answers, kept in memory for whoever says what they are worth."""

from __future__ import annotations

from collections import OrderedDict

from service.answer import Answer

MOST_DELETED = 10_000
"""Documents: more than can be deleted, one after the other, while an answer is made."""


class RecentAnswers:
    """The last answers by id, so that feedback can name them; in memory only."""

    def __init__(self, most: int = 500) -> None:
        self._most = most
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._deleted: OrderedDict[str, int] = OrderedDict()

    def add(self, answer: Answer) -> None:
        """Remember an answer and forget the oldest.

        One without a question (its prompt was token ids) is no use to feedback; one that was shown a document which
        has been deleted since would bring its text back.
        """
        generation = answer.generation or 0
        if not answer.question or any(
            generation < self._deleted.get(c.document_id, 0) for c in answer.contexts
        ):
            return
        self._answers[answer.id] = answer
        self._answers.move_to_end(answer.id)
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def get(self, answer_id: str) -> Answer | None:
        """The answer of that id, unless it is forgotten."""
        return self._answers.get(answer_id)

    def forget_document(self, document_id: str, generation: int) -> None:
        """Drop every answer that was shown a passage of the document, which the index lacks since `generation`."""
        self._deleted[document_id] = generation
        self._deleted.move_to_end(document_id)
        if len(self._deleted) > MOST_DELETED:
            self._deleted.popitem(last=False)
        shown = [
            a.id
            for a in list(self._answers.values())
            if any(c.document_id == document_id for c in a.contexts)
        ]
        for answer_id in shown:
            self._answers.pop(answer_id, None)
