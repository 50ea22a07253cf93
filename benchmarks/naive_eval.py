"""The naive ways that `eval.py` is measured beside: one question at a time, and lm-eval's `hf` backend.

Run by `eval.py`, in the interpreter that has the peers; knows nothing of openbook. What to do comes as JSON, and what
was measured goes out as JSON, in the last line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LM_EVAL_BATCHES = (1, 32)
"""lm-eval's default, and as many as openbook's evaluation answers together."""
PLAIN, TOLD = "generate", "generate, told when to stop"
Search = Callable[[str, int], Sequence[object]]
"""The nearest passages to a question."""


def main() -> None:
    way, work = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    found = {"one at a time": one_at_a_time, "lm-eval": with_lm_eval}[way](work)
    print(json.dumps(found))


def one_at_a_time(work: dict[str, Any]) -> dict[str, Any]:
    """Every route's questions, each retrieved for and answered by itself; models are loaded and warm before."""
    search, retrieval = open_search(work["encoder"], work["passages"])
    search("warm", 1)
    routes = {
        route["name"]: answer_route(*load(work, route["adapter"]), search, route) for route in work["routes"]
    }
    return {"retrieval": retrieval, "routes": routes, "versions": versions("transformers", "peft", "torch")}


def open_search(encoder: str, passages: Sequence[str]) -> tuple[Search, dict[str, str]]:
    """LangChain's search in FAISS, or the same by hand where it is not installed; what it is, with versions."""
    try:
        from langchain_community.vectorstores import FAISS
        from langchain_huggingface import HuggingFaceEmbeddings
    except ModuleNotFoundError as error:
        return search_by_hand(encoder, passages), {
            "name": f"sentence-transformers and faiss by hand (LangChain skipped: no {error.name} here)",
            **versions("sentence-transformers", "faiss-cpu"),
        }
    embeddings = HuggingFaceEmbeddings(model_name=encoder, encode_kwargs={"normalize_embeddings": True})
    store = FAISS.from_texts(list(passages), embeddings)
    return lambda question, k: store.similarity_search(question, k=k), {
        "name": "LangChain similarity_search in FAISS",
        **versions("langchain-community", "langchain-huggingface", "faiss-cpu"),
    }


def search_by_hand(encoder: str, passages: Sequence[str]) -> Search:
    import faiss
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(encoder)
    vectors = model.encode(list(passages), normalize_embeddings=True)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def search(question: str, k: int) -> Sequence[object]:
        _, places = index.search(model.encode([question], normalize_embeddings=True), k)
        return [passages[place] for place in places[0]]

    return search


def load(work: dict[str, Any], adapter: str | None) -> tuple[Any, Any]:
    """A fresh model, with PEFT's adapter if the route has one, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=work["dtype"])
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model.to(device()).eval()
    return model, AutoTokenizer.from_pretrained(work["model"])


def answer_route(model: Any, tokenizer: Any, search: Search, route: dict[str, Any]) -> dict[str, Any]:
    """Seconds and texts of one route; tokens and margins of the answers that are not as expected, without time.

    With stop strings, `generate` is also timed when it is told of them: otherwise it writes on to its limit.
    """
    stops, most = tuple(route["stop"]), route["max_new_tokens"]
    told = {"stop_strings": list(stops), "tokenizer": tokenizer} if stops else {}
    for warm in ({}, told):
        generate(model, tokenizer, route["asked"][0]["prompt"], most, warm)
    seconds = {"retrieve": 0.0, PLAIN: 0.0, TOLD: 0.0}
    texts, differing = [], {}
    for place, asked in enumerate(route["asked"]):
        started = time.perf_counter()
        if route["retrieve"]:
            search(asked["question"], route["k"])
        retrieved = time.perf_counter()
        tokens = generate(model, tokenizer, asked["prompt"], most, {})
        texts.append(text_of(tokenizer, tokens, stops))
        ended = time.perf_counter()
        seconds["retrieve"] += retrieved - started
        seconds[PLAIN] += ended - retrieved
        if told:
            generate(model, tokenizer, asked["prompt"], most, told)
        seconds[TOLD] += time.perf_counter() - ended if told else ended - retrieved
        if texts[-1] != asked["expected"]:
            differing[str(place)] = with_margins(model, tokenizer, asked["prompt"], most)
    return {"seconds": seconds, "texts": texts, "differing": differing}


def generate(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int, told: dict[str, Any]) -> list[int]:
    """The new tokens of one prompt, as most scripts get them."""
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, **told)
    new: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
    return new


def text_of(tokenizer: Any, tokens: Sequence[int], stops: Sequence[str]) -> str:
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text.strip()


def with_margins(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> dict[str, Any]:
    """The answer's tokens up to its end, and at each, the end included, how far the likeliest was ahead in nats."""
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
    output = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    ended = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else len(tokens)
    best = [logits[0].float().topk(2).values.tolist() for logits in output.logits]
    return {"tokens": tokens[:ended], "margins": [first - second for first, second in best]}


def with_lm_eval(work: dict[str, Any]) -> dict[str, Any]:
    """`generate_until` of lm-eval's `hf` backend on the first route's prompts; the model is loaded and warm before."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ModuleNotFoundError as error:
        return {
            "skipped": f"no {error.name} in this interpreter; see the head of eval.py for how to install it"
        }
    route = work["routes"][0]

    def options() -> dict[str, Any]:  # anew for each request: lm-eval changes them
        return {"until": list(route["stop"]), "max_gen_toks": route["max_new_tokens"], "do_sample": False}

    def instances() -> list[Any]:
        return [
            Instance("generate_until", {}, (asked["prompt"], options()), place)
            for place, asked in enumerate(route["asked"])
        ]

    runs = {}
    for batch in LM_EVAL_BATCHES:
        lm = HFLM(pretrained=work["model"], device=device(), dtype=work["dtype"], batch_size=batch)
        lm.generate_until(instances()[:1], disable_tqdm=True)
        started = time.perf_counter()
        texts = lm.generate_until(instances(), disable_tqdm=True)
        seconds = time.perf_counter() - started
        equal = sum(
            text.strip() == asked["expected"] for text, asked in zip(texts, route["asked"], strict=True)
        )
        runs[str(batch)] = {"seconds": seconds, "equal": equal}
    return {"route": route["name"], "batches": runs, "versions": versions("lm-eval", "transformers", "torch")}


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def versions(*packages: str) -> dict[str, str]:
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


if __name__ == "__main__":
    main()
