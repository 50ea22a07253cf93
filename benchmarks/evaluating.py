"""What `eval.py` measures of openbook, and what it hands to the peers.

Imported by `eval.py`; run by itself it does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from equality import key
from serving import Task

ROUTES = ("base", "rag", "tuned", "hybrid")
WARM_UP = 2
"""Dev questions that every route answers before time is taken."""


@dataclass(frozen=True)
class Noted:
    """What openbook said, by route and question in this order, with tokens and margins, and from what."""

    tasks: list[Task]
    answers: dict[str, Any]
    work: dict[str, Any]
    """What the peers are given."""
    identity: dict[str, Any]
    """What was asked of what."""


class Noting:
    """A generator that keeps the tokens of its answers, and how far each was ahead of the next likeliest."""

    def __init__(self, generator: Any) -> None:
        self.answers: dict[Any, dict[str, Any]] = {}
        self._generator = generator

    def generate(self, requests: Sequence[Any]) -> list[Any]:
        asked = [replace(request, sampling=replace(request.sampling, logprobs=2)) for request in requests]
        decoded: list[Any] = self._generator.generate(asked)
        for request, answer in zip(requests, decoded, strict=True):
            best = [[logprob for _, logprob in token.likeliest] for token in answer.logprobs]
            self.answers[request] = {
                "text": answer.text,
                "tokens": [token.token for token in answer.logprobs],
                "margins": [first - second for first, second in best],
            }
        return decoded


def open_routes(place: Any, settings: Any, count: int | None) -> tuple[Any, list[Any]]:
    """The four routes, loaded anew and warm, so that no query is remembered; the test questions to ask."""
    from eval.local import open_local
    from indexer.corpus import Split
    from service.config import routes_from_config

    configured = routes_from_config(settings.routes)
    routes = {name: configured[name] for name in ROUTES}
    examples = max(route.examples for route in routes.values())
    local = open_local(place, settings.model, settings.eval, routes, examples, settings.index)
    dev = [question for question in local.questions if question.split is Split.DEV][:WARM_UP]
    for route in routes.values():
        local.answerer.answer_many([(question.text, route) for question in dev])
    test = [question for question in local.questions if question.split is Split.TEST]
    count = min(count or len(test), len(test))
    return local, [test[n * len(test) // count] for n in range(count)]


def answer(
    local: Any, questions: Sequence[Any], settings: Any, folder: Path
) -> tuple[dict[str, float], list[str]]:
    """Seconds by route, and every text; route by route, as an evaluation does, to tell their times apart."""
    from eval.asking import LocalAsker
    from eval.run import answers_of

    folder.mkdir()
    asker, latency_questions = LocalAsker(local.answerer, local.setup), settings.eval.latency_questions
    seconds, texts = {}, []
    for name, route in local.answerer.routes.items():
        started = time.perf_counter()
        records = answers_of(asker, questions, {name: route}, folder / f"{name}.jsonl", (), latency_questions)
        seconds[name] = time.perf_counter() - started
        texts += [record.answer.answer for record in records[name]]
    return seconds, texts


def answer_and_score(place: Any, settings: Any, count: int | None, folder: Path) -> dict[str, Any]:
    """One timed run of ours: seconds by route, then those that statistics and reports take."""
    from eval.asking import LocalAsker
    from eval.run import Extras, evaluate
    from indexer.encoding import load_encoder

    local, questions = open_routes(place, settings, count)
    seconds, texts = answer(local, questions, settings, folder)
    extras = Extras(encoder=load_encoder(settings.model.encoder) if settings.eval.semantic else None)
    known = [folder / f"{name}.jsonl" for name in ROUTES]
    asker, routes = LocalAsker(local.answerer, local.setup), local.answerer.routes
    started = time.perf_counter()
    (folder / "whole").mkdir()
    evaluate(asker, questions, routes, folder / "whole", settings.eval, extras, known)
    return {"seconds": seconds, "statistics seconds": time.perf_counter() - started, "texts": texts}


def note(place: Any, settings: Any, count: int | None, folder: Path) -> Noted:
    """An untimed run in the same batches; what the peers are given is taken from it."""
    local, questions = open_routes(place, settings, count)
    answerer = local.answerer
    answerer.generator = noting = Noting(answerer.generator)
    answer(local, questions, settings, folder)
    tasks, answers, routes = [], {}, []
    for name, route in answerer.routes.items():
        asked = []
        prepared = answerer.prepare([(question.text, route) for question in questions])
        for question, request in zip(questions, [one.request for one in prepared], strict=True):
            prompt, said = prompt_text(answerer.base.tokenizer, request.prompt), noting.answers[request]
            stop = request.sampling.stop
            task = Task(name, route.adapter, question.id, question.text, question.answers, prompt, stop)
            tasks.append(task)
            answers[key(task)] = said
            asked.append({"question": question.text, "prompt": prompt, "expected": said["text"]})
        known = {"name": name, "retrieve": route.retrieve, "k": route.k, "stop": stop, "asked": asked}
        adapter = str(adapter_of(place, route).path) if route.adapter else None
        routes.append(known | {"adapter": adapter, "max_new_tokens": route.max_new_tokens})
    work = {"dtype": str(answerer.base.dtype).removeprefix("torch."), "routes": routes}
    return Noted(
        tasks, answers, work | models_and_passages(local, settings), identity(place, local, questions, tasks)
    )


def prompt_text(tokenizer: Any, prompt: Sequence[int]) -> str:
    text: str = tokenizer.decode(prompt)
    if tokenizer(text, add_special_tokens=False)["input_ids"] != list(prompt):
        raise RuntimeError(f"as text, this prompt is read as other tokens: {text!r}")
    return text


def adapter_of(place: Any, route: Any) -> Any:
    from tuner.registry import Registry

    return Registry(place.adapters).resolve(route.adapter)


def models_and_passages(local: Any, settings: Any) -> dict[str, Any]:
    """The folders of both models, and what openbook embeds."""
    from indexer.chunking import embedding_text
    from indexer.encoding import _bundled_folder, model_folder
    from tuner.base_model import resolve_model

    snapshot, encoder = local.retriever.snapshot, settings.model.encoder
    documents, name = snapshot.documents(), encoder.removeprefix("bundled:")
    passages = [embedding_text(documents[chunk.document_id], chunk).text for chunk in snapshot.all_chunks()]
    folder = model_folder(encoder, "encoder") if name == encoder else _bundled_folder(name)
    return {
        "model": str(resolve_model(settings.model.base)),
        "encoder": str(folder),
        "passages": passages,
    }


def identity(place: Any, local: Any, questions: Sequence[Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """What was asked of what, for the record."""
    import torch

    from eval.provenance import library_versions, machine_facts, questions_hash
    from indexer.files import hash_json

    setup, routes = local.setup, local.answerer.routes
    trained = {adapter_of(place, r).manifest.tokens > 0 for r in routes.values() if r.adapter}
    return {
        "questions": len(questions),
        "routes": {name: asdict(route) for name, route in routes.items()},
        "adapter": "trained" if trained == {True} else "untrained, at random",
        "threads": torch.get_num_threads(),
        "hashes": {
            "questions": questions_hash(questions),
            "prompts": hash_json([task.prompt for task in tasks]),
            "base model": setup.base_model_hash,
            "adapters": dict(setup.adapter_hashes),
            "corpus": setup.corpus_hash,
        },
        "versions": library_versions(),
        "machine": {name: fact for name, fact in machine_facts().items() if name != "system"},
    }
