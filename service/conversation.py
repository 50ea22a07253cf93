"""The question in a conversation: what the last user message asks, made whole from what came before it.

No further model call is made. A message that leans on earlier ones ("And how many steps does it have?") gets the
user's earlier questions put before it, for retrieval and in the prompt alike. It counts as leaning if it has one of
the words below or hardly any word of content; that rule is for English, in other languages only the second part
works.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LEANING = frozenset(
    "it its they them their theirs he him his she her hers this these those ones same former latter".split()  # noqa: SIM905
)
OPENINGS = ("and ", "but ", "or ", "so ", "what about", "how about", "why not")
EMPTY = frozenset(
    """
    a an and are as at be but by can could did do does for from had has have how i if in is may me much
    many no not of on or please so tell than that the to was were what when where which who whom whose
    why will with would yes you your
    """.split()  # noqa: SIM905
)
FEWEST_CONTENT_WORDS = 2
MOST_QUESTIONS = 3
"""The last question and at most two before it."""


def whole_question(user_messages: Sequence[str]) -> str:
    """The last of `user_messages`, with the earlier ones it leans on put before it; empty if there is none."""
    asked = [text for message in user_messages if (text := " ".join(message.split()))]
    parts = asked[-1:]
    for earlier in reversed(asked[-MOST_QUESTIONS:-1]):
        if not leans(parts[0]):
            break
        parts.insert(0, earlier)
    return " ".join(parts) if len(parts) > 1 else (user_messages[-1].strip() if asked else "")


def leans(question: str) -> bool:
    """Whether a question cannot be understood alone."""
    words = re.findall(r"\w+", question.casefold())
    content = [word for word in words if word not in EMPTY and word not in LEANING]
    return (
        question.casefold().startswith(OPENINGS)
        or bool(LEANING.intersection(words))
        or len(content) < FEWEST_CONTENT_WORDS
    )
