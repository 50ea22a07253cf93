"""Answers in OpenAI's words, whole or as the chunks of a stream."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

from transformers.convert_slow_tokenizer import bytes_to_unicode

from service.answer import Citation
from service.openai_responses import (
    Annotation,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ChatResponse,
    CompletionChoice,
    CompletionLogprobs,
    CompletionResponse,
    TopLogprob,
    UrlCitation,
    Usage,
)
from service.underway import Told, Underway
from tuner.decoding import Decoded

CHAT_ID, COMPLETION_ID = "chatcmpl-", "cmpl-"
"""What ids of replies begin with."""


class ChatReply:
    """One reply to a chat completion request."""

    def __init__(self, model: str, tokenizer: Any, choices: int, reply_id: str | None = None) -> None:
        """`choices` is how many answers each prompt gets; `reply_id` is what feedback names, in an experiment."""
        self._model = model
        self._choices = choices
        self._tokenizer = tokenizer
        self._id = CHAT_ID + (reply_id or uuid.uuid4().hex)
        self._created = int(time.time())

    def whole(self, told: Sequence[Told]) -> ChatResponse:
        """All choices at once."""
        return ChatResponse(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[
                ChatChoice(
                    index=i,
                    message=ChatAnswer(content=one.answer.answer, annotations=url_citations(one)),
                    logprobs=self._logprobs(one.decoded),
                    finish_reason=one.answer.finish_reason,
                )
                for i, one in enumerate(told)
            ],
            usage=usage(told, self._choices),
            citations=list(told[0].answer.citations),
        )

    async def chunks(self, underway: Underway, with_usage: bool) -> AsyncGenerator[ChatChunk, None]:
        """The choices as they grow; annotations, citations and log-probabilities come with the end of each."""
        try:
            for i in range(len(underway.prepared)):
                yield self._chunk(ChatChunkChoice(index=i, delta=ChatDelta(role="assistant", content="")))
            async for i, text in underway.pieces():
                yield self._chunk(ChatChunkChoice(index=i, delta=ChatDelta(content=text)))
            told = await underway.told()
            for i, one in enumerate(told):
                end = ChatChunkChoice(
                    index=i,
                    delta=ChatDelta(annotations=url_citations(one)),
                    logprobs=self._logprobs(one.decoded),
                    finish_reason=one.answer.finish_reason,
                )
                chunk = self._chunk(end)
                chunk.citations = list(one.answer.citations)
                yield chunk
            if with_usage:
                yield self._chunk(usage=usage(told, self._choices))
        finally:
            underway.cancel()

    def _chunk(self, *choices: ChatChunkChoice, usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(
            id=self._id, created=self._created, model=self._model, choices=list(choices), usage=usage
        )

    def _logprobs(self, decoded: Decoded) -> ChatLogprobs | None:
        if not decoded.logprobs:
            return None
        content = []
        for place in decoded.logprobs:
            likeliest = [self._top(token, logprob) for token, logprob in place.likeliest]
            chosen = self._top(place.token, place.logprob)
            content.append(ChatLogprob(**chosen.model_dump(), top_logprobs=likeliest))
        return ChatLogprobs(content=content)

    def _top(self, token: int, logprob: float) -> TopLogprob:
        text = self._tokenizer.decode([token])
        return TopLogprob(token=text, logprob=logprob, bytes=list(_bytes_of(self._tokenizer, token, text)))


class CompletionReply:
    """One reply to a plain completion request."""

    def __init__(
        self,
        model: str,
        tokenizer: Any,
        choices: int,
        as_token_ids: bool = False,
        reply_id: str | None = None,
    ) -> None:
        """`choices` and `reply_id` as for `ChatReply`; `as_token_ids` names tokens by their numbers."""
        self._model = model
        self._choices = choices
        self._tokenizer = tokenizer
        self._as_token_ids = as_token_ids
        self._id = COMPLETION_ID + (reply_id or uuid.uuid4().hex)
        self._created = int(time.time())

    def whole(self, told: Sequence[Told]) -> CompletionResponse:
        """All choices of all prompts at once."""
        choices = [
            CompletionChoice(
                index=i,
                text=one.answer.answer,
                logprobs=self._logprobs(one.decoded),
                finish_reason=one.answer.finish_reason,
            )
            for i, one in enumerate(told)
        ]
        return self._response(*choices, usage=usage(told, self._choices))

    async def chunks(self, underway: Underway, with_usage: bool) -> AsyncGenerator[CompletionResponse, None]:
        """The texts as they grow; log-probabilities come with the end of each."""
        try:
            async for i, text in underway.pieces():
                yield self._response(CompletionChoice(index=i, text=text))
            told = await underway.told()
            for i, one in enumerate(told):
                yield self._response(
                    CompletionChoice(
                        index=i,
                        text="",
                        logprobs=self._logprobs(one.decoded),
                        finish_reason=one.answer.finish_reason,
                    )
                )
            if with_usage:
                yield self._response(usage=usage(told, self._choices))
        finally:
            underway.cancel()

    def _response(self, *choices: CompletionChoice, usage: Usage | None = None) -> CompletionResponse:
        return CompletionResponse(
            id=self._id, created=self._created, model=self._model, choices=list(choices), usage=usage
        )

    def _logprobs(self, decoded: Decoded) -> CompletionLogprobs | None:
        if not decoded.logprobs:
            return None
        texts = [self._tokenizer.decode([place.token]) for place in decoded.logprobs]
        return CompletionLogprobs(
            tokens=[self._name(place.token) for place in decoded.logprobs],
            token_logprobs=[place.logprob for place in decoded.logprobs],
            top_logprobs=[
                {self._name(token): logprob for token, logprob in place.likeliest}
                for place in decoded.logprobs
            ],
            text_offset=[sum(map(len, texts[:i])) for i in range(len(texts))],
        )

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._as_token_ids else str(self._tokenizer.decode([token]))


def _bytes_of(tokenizer: Any, token: int, text: str) -> bytes:
    """The UTF-8 of a token, `text` when decoded alone: clients join bytes where several tokens make one character."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if "▁" in piece:  # SentencePiece's space, of which decoding a token alone leaves out the first
        return piece.replace("▁", " ").encode()
    if "\ufffd" not in text:
        return text.encode()
    if byte := re.fullmatch("<0x([0-9A-F]{2})>", piece):
        return bytes([int(byte[1], 16)])
    known = _bytes_by_sign()
    return bytes(known[sign] for sign in piece) if all(sign in known for sign in piece) else text.encode()


@cache
def _bytes_by_sign() -> dict[str, int]:
    """What byte-level vocabularies, such as GPT-2's, write for each byte."""
    return {sign: byte for byte, sign in bytes_to_unicode().items()}


def usage(told: Sequence[Told], choices: int) -> Usage:
    """Tokens of `told`, with each prompt counted once for all its choices."""
    read = sum(one.answer.prompt_tokens for one in told) // choices
    written = sum(one.answer.completion_tokens for one in told)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def url_citations(told: Told) -> list[Annotation]:
    """The citations of an answer in OpenAI's form."""
    return [_annotation(citation, told.answer.answer) for citation in told.answer.citations]


def _annotation(citation: Citation, content: str) -> Annotation:
    # RFC 5147 names a range of characters in a plain text by such a fragment.
    url = f"/v1/documents/{quote(citation.document_id)}#char={citation.start},{citation.end}"
    return Annotation(
        url_citation=UrlCitation(start_index=0, end_index=len(content), title=citation.title, url=url)
    )
