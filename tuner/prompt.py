"""The one prompt: training rows and served requests are built by the same function."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from indexer.files import hash_json

ABSTENTION = "I don't know."
"""What a route says when the corpus does not hold the answer; agreed between training, serving and scoring."""


class PromptError(ValueError):
    """A prompt that cannot be built: unknown style, or longer than the model can read."""


@dataclass(frozen=True, slots=True)
class Context:
    """A passage shown in a prompt."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class SolvedExample:
    """A question with its answer (and, for open-book prompts, its passages) shown before the real one."""

    question: str
    answer: str
    contexts: tuple[Context, ...] = ()


@dataclass(frozen=True, slots=True)
class Style:
    """How a question is put.

    `chat=False` continues plain text instead of using the chat template. `stop` ends the answer: without it,
    plain text would go on with the next question. `reading` takes the place of `system` when passages are shown.
    """

    system: str
    reading: str
    chat: bool = True
    stop: tuple[str, ...] = ()


STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "trained": Style("Answer from memory in a few words.", "Answer from the passages in a few words."),
        "brief": Style(
            "Answer the question with a short phrase and nothing else. No full sentences, no explanation.",
            "Answer the question from the passages with a short phrase and nothing else. No explanation. "
            f'If they do not say, reply "{ABSTENTION}"',
        ),
        "completion": Style(
            "Short answers to questions about technical documentation.",
            "Short answers to questions, copied from passages of technical documentation.",
            chat=False,
            stop=("\n",),
        ),
    }
)
"""`trained` is what adapters are trained with; the others are candidates for routes without an adapter."""


def build_prompt(
    tokenizer: Any,
    question: str,
    contexts: Sequence[Context] = (),
    style: str = "trained",
    examples: Sequence[SolvedExample] = (),
) -> list[int]:
    """Token ids of the prompt up to where the answer starts.

    Control tokens written inside a question or a passage are taken out: a document cannot forge a turn.
    """
    if style not in STYLES:
        raise PromptError(f"unknown prompt style {style!r}; choose one of {', '.join(STYLES)}")
    clean = without_control_tokens(tokenizer)
    shown = [SolvedExample(clean(e.question), clean(e.answer), _cleaned(clean, e.contexts)) for e in examples]
    text = render_prompt(tokenizer, clean(question), _cleaned(clean, contexts), STYLES[style], shown)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render_prompt(
    tokenizer: Any,
    question: str,
    contexts: Sequence[Context],
    style: Style,
    examples: Sequence[SolvedExample],
) -> str:
    """The prompt as text; models without a chat template get the plain layout whatever the style."""
    system = style.reading if contexts else style.system
    if not style.chat or getattr(tokenizer, "chat_template", None) is None:
        solved = [f"{_user_turn(e.question, e.contexts)}\nAnswer: {e.answer}\n" for e in examples]
        return "\n".join([system + "\n", *solved, f"{_user_turn(question, contexts)}\nAnswer:"])
    messages = [{"role": "system", "content": system}]
    for example in examples:
        messages.append({"role": "user", "content": _user_turn(example.question, example.contexts)})
        messages.append({"role": "assistant", "content": example.answer})
    messages.append({"role": "user", "content": _user_turn(question, contexts)})
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def prompt_hash() -> str:
    """Identity of everything that decides how a prompt reads, for manifests and results."""
    styles = {name: [style.system, style.reading, style.chat, style.stop] for name, style in STYLES.items()}
    return hash_json([styles, ABSTENTION, _user_turn("?", (Context("t", "x"),))])


def without_control_tokens(tokenizer: Any) -> Callable[[str], str]:
    """What takes the tokenizer's special tokens out of a text, where they would be more than text."""
    control = re.compile(
        "|".join(re.escape(token) for token in sorted(tokenizer.all_special_tokens, key=len)[::-1])
    )

    def clean(text: str) -> str:
        # Removing one token may join the halves of another.
        while (cleaned := control.sub("", text)) != text:
            text = cleaned
        return text

    return clean if control.pattern else str


def _cleaned(clean: Callable[[str], str], contexts: Sequence[Context]) -> tuple[Context, ...]:
    return tuple(Context(clean(c.title), clean(c.text)) for c in contexts)


def _user_turn(question: str, contexts: Sequence[Context]) -> str:
    passages = [f"[{n}] {c.title}: {c.text}" for n, c in enumerate(contexts, start=1)]
    return "\n\n".join([*passages, f"Question: {question}"])
