"""OpenAI's chat completions and models, with routes as the models."""

from __future__ import annotations

import secrets
import time
import uuid
from urllib.parse import quote

from fastapi import APIRouter, Request

from service.answering import Answer, Citation
from service.errors import UnsupportedParameter
from service.live import LiveAnswerer, unless_client_leaves
from service.routes import Route
from service.schemas import (
    Annotation,
    ChatAnswer,
    ChatRequest,
    ChatResponse,
    Choice,
    Model,
    ModelList,
    UrlCitation,
    Usage,
)
from tuner.decoding import Sampling


def openai_router(live: LiveAnswerer, max_new_tokens: int) -> APIRouter:
    """`/v1/chat/completions` and `/v1/models`; `max_new_tokens` bounds what clients may ask for."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> ChatResponse:
        """Answer the last user message by the route that `model` names."""
        route = live.answerer.route(body.model)
        if body.stream:
            raise UnsupportedParameter("stream", "streaming is not supported yet; send stream=false")
        question = body.question()
        if not question:
            raise UnsupportedParameter("messages", "there is no user message with text to answer")
        sampling = _sampling(body, route, max_new_tokens)
        answer = await unless_client_leaves(request, live.answer(question, route.name, sampling))
        return _chat_response(answer)

    @router.get("/models")
    async def models() -> ModelList:
        """Every route."""
        return ModelList(data=[_model(route) for route in live.answerer.routes.values()])

    @router.get("/models/{name}")
    async def model(name: str) -> Model:
        """One route."""
        return _model(live.answerer.route(name))

    return router


def _sampling(body: ChatRequest, route: Route, max_new_tokens: int) -> Sampling:
    asked = body.max_completion_tokens or body.max_tokens
    if asked is not None and asked > max_new_tokens:
        param = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
        raise UnsupportedParameter(
            param, f"{asked} tokens are more than the {max_new_tokens} this service allows"
        )
    return Sampling(
        max_new_tokens=asked or route.max_new_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=secrets.randbits(62) if body.seed is None else body.seed,
        stop=body.stop_strings(),
    )


def _chat_response(answer: Answer) -> ChatResponse:
    return ChatResponse(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=answer.route,
        choices=[
            Choice(
                message=ChatAnswer(
                    content=answer.answer,
                    annotations=[_annotation(citation, answer.answer) for citation in answer.citations],
                ),
                finish_reason=answer.finish_reason,
            )
        ],
        usage=Usage(
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            total_tokens=answer.prompt_tokens + answer.completion_tokens,
        ),
        citations=list(answer.citations),
    )


def _annotation(citation: Citation, content: str) -> Annotation:
    # RFC 5147 names a range of characters in a plain text by such a fragment.
    url = f"/v1/documents/{quote(citation.document_id)}#char={citation.start},{citation.end}"
    return Annotation(
        url_citation=UrlCitation(start_index=0, end_index=len(content), title=citation.title, url=url)
    )


def _model(route: Route) -> Model:
    return Model(id=route.name, retrieve=route.retrieve, adapter=route.adapter)
