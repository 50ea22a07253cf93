"""OpenAI's chat completions, completions, embeddings and models, with routes as the models."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from indexer.database import IndexMissing
from indexer.encoding import Encoder, Vectors
from service.answering import UnknownRoute
from service.conversation import whole_question
from service.disconnection import unless_client_leaves
from service.embedding import Embedding
from service.errors import UnsupportedParameter
from service.live import LiveAnswerer
from service.openai_replies import ChatReply, CompletionReply
from service.openai_requests import ChatRequest, CompletionRequest, EmbeddingRequest, SamplingRequest
from service.openai_responses import (
    AutoModel,
    ChatResponse,
    CompletionResponse,
    EmbeddingItem,
    EmbeddingResponse,
    EmbeddingUsage,
    Model,
    ModelList,
)
from service.routes import AUTO, Route
from service.sse import EVENT_STREAM, event_stream
from service.underway import Underway
from tuner.decoding import Sampling
from tuner.registry import AdapterError

MAX_ANSWERS = 16
"""The most that one request may ask for, counting prompts and choices."""


def openai_router(live: LiveAnswerer, max_new_tokens: int) -> APIRouter:
    """`/v1/chat/completions`, `/v1/completions` and so on; `max_new_tokens` bounds what clients may ask for."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    async def begin(
        body: SamplingRequest,
        request: Request,
        questions: Sequence[str],
        asked: int | None,
        logprobs: int | None,
        token_prompts: Sequence[Sequence[int]] = (),
    ) -> Underway:
        started = time.monotonic()
        choices, prompts = body.n or 1, len(questions) + len(token_prompts)
        if prompts * choices > MAX_ANSWERS:
            raise UnsupportedParameter(
                "n", f"{prompts} x {choices} answers are more than {MAX_ANSWERS} a request"
            )
        name, exposure = await live.assign(body.model, body.user, request)
        route = await chosen(name, body, questions)
        sampling = Sampling(
            max_new_tokens=asked or route.max_new_tokens,
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=secrets.randbits(62) if body.seed is None else body.seed,
            stop=body.stop_strings(),
            ignore_eos=bool(body.ignore_eos),
            logprobs=logprobs,
        )
        if token_prompts:
            underway = await live.continue_tokens(token_prompts, route, sampling, choices)
        else:
            underway = await live.begin(questions, route, sampling, choices, started)
        underway.exposure = exposure
        return underway

    async def chosen(name: str, body: SamplingRequest, questions: Sequence[str]) -> Route:
        if len(questions) == 1:
            return await live.route_for(name, questions[0], body.where)
        if live.router is not None and name == AUTO:
            raise UnsupportedParameter(
                "prompt", f"{AUTO} takes a route for one question; send one a request, or name a route"
            )
        return live.answerer.route(name).restricted(body.where)

    @router.post("/chat/completions", response_model=ChatResponse, responses=EVENT_STREAM)
    async def chat_completions(body: ChatRequest, request: Request) -> ChatResponse | Response:
        """Answer the last user message by the route that `model` names."""
        param = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
        asked = _within(param, body.max_completion_tokens or body.max_tokens, max_new_tokens)
        live.require_route(body.model)
        question = whole_question(body.user_messages())
        if not question:
            raise UnsupportedParameter("messages", "there is no user message with text to answer")
        if body.top_logprobs and not body.logprobs:
            raise UnsupportedParameter("top_logprobs", "top_logprobs needs logprobs=true")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None

        def reply(underway: Underway) -> ChatReply:
            return ChatReply(
                underway.route_name, live.answerer.base.tokenizer, body.n or 1, underway.exposure_id
            )

        if body.stream:
            underway = await begin(body, request, [question], asked, logprobs)
            return event_stream(reply(underway).chunks(underway, body.wants_usage()))

        async def answered() -> ChatResponse:
            underway = await begin(body, request, [question], asked, logprobs)
            return reply(underway).whole(await underway.told())

        return await unless_client_leaves(request, answered())

    @router.post("/completions", response_model=CompletionResponse, responses=EVENT_STREAM)
    async def completions(body: CompletionRequest, request: Request) -> CompletionResponse | Response:
        """Answer each prompt, as a question, by the route that `model` names; go on with those of token ids."""
        asked = _within("max_tokens", body.max_tokens, max_new_tokens)
        live.require_route(body.model)
        questions, tokens = [prompt.strip() for prompt in body.questions()], body.token_prompts()
        if not all(questions):
            raise UnsupportedParameter("prompt", "a prompt is empty")
        named = bool(body.return_tokens_as_token_ids)

        def reply(underway: Underway) -> CompletionReply:
            tokenizer, choices = live.answerer.base.tokenizer, body.n or 1
            return CompletionReply(underway.route_name, tokenizer, choices, named, underway.exposure_id)

        if body.stream:
            underway = await begin(body, request, questions, asked, body.logprobs, tokens)
            return event_stream(reply(underway).chunks(underway, body.wants_usage()))

        async def answered() -> CompletionResponse:
            underway = await begin(body, request, questions, asked, body.logprobs, tokens)
            return reply(underway).whole(await underway.told())

        return await unless_client_leaves(request, answered())

    encoder = live.answerer.encoder
    embedding = Embedding(encoder, live.timeout_seconds) if encoder is not None else None

    @router.post("/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> EmbeddingResponse:
        """Vectors by the encoder that the index is built with."""
        if encoder is None or embedding is None:
            raise IndexMissing("no route retrieves, so no encoder is loaded")
        name = _require_encoder(encoder, body)
        vectors, tokens = await unless_client_leaves(request, embedding.embed(body.texts()))
        return _embeddings(name, vectors, tokens, packed=body.encoding_format == "base64")

    @router.get("/models")
    async def models() -> ModelList:
        """Every route, and `auto` if a router is trained."""
        names = [*live.answerer.routes, *([AUTO] if live.router else [])]
        return ModelList(data=await run_in_threadpool(lambda: [_model(live, name) for name in names]))

    @router.get("/models/{name}")
    async def model(name: str) -> Model | AutoModel:
        """One route, or `auto`."""
        return await run_in_threadpool(_model, live, name)

    return router


def _within(param: str, asked: int | None, most: int) -> int | None:
    if asked is not None and asked > most:
        raise UnsupportedParameter(param, f"{asked} tokens are more than the {most} this service allows")
    return asked


def _require_encoder(encoder: Encoder, body: EmbeddingRequest) -> str:
    """The encoder's name, if it is the one that is asked for."""
    name = encoder.id.partition(":")[0]
    if body.model not in (name, encoder.id):
        raise UnknownRoute(f"unknown embedding model {body.model!r}; this service has {name!r}")
    if body.dimensions not in (None, encoder.dim):
        raise UnsupportedParameter("dimensions", f"{name} has vectors of {encoder.dim} numbers, no others")
    return name


def _embeddings(name: str, vectors: Vectors, tokens: int, packed: bool) -> EmbeddingResponse:
    data = [
        EmbeddingItem(
            index=i,
            embedding=base64.b64encode(vector.astype("<f4").tobytes()).decode()
            if packed
            else vector.tolist(),
        )
        for i, vector in enumerate(vectors)
    ]
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    return EmbeddingResponse(model=name, data=data, usage=usage)


def _model(live: LiveAnswerer, name: str) -> Model | AutoModel:
    base = live.answerer.base
    if live.router is not None and name == AUTO:
        return AutoModel(
            id=AUTO,
            root=base.name,
            max_model_len=base.max_prompt_tokens,
            routes=list(live.router.trained.routes),
            identity=live.router.identity(),
            stale=live.router.stale(),
        )
    route = live.answerer.route(name)
    try:
        identity = live.answerer.identity(route)
    except (AdapterError, IndexMissing):
        identity = None
    return Model(
        id=route.name,
        root=route.adapter or base.name,
        parent=base.name if route.adapter else None,
        max_model_len=base.max_prompt_tokens,
        retrieve=route.retrieve,
        k=route.k,
        adapter=route.adapter,
        prompt=route.prompt,
        examples=route.examples,
        max_new_tokens=route.max_new_tokens,
        identity=identity,
    )
