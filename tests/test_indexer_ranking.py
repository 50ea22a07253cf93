"""Ranking: results read again by a cross-encoder, and limited for each document.

The cross-encoder is a tiny random one: its scores mean nothing, so only what is done with them is tested.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from eval.local import local_setup
from indexer import commands, ranking, retriever
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.encoding import EncoderError
from indexer.ranking import FUSED, Ranking, load_ranking, load_reranker, ranking_identity
from indexer.retriever import Hit, Index
from indexer.sync import sync
from service.answering import Answerer
from service.routes import Route
from tests.fakes import HashEncoder
from tests.fakes_service import ScriptedGenerator
from tests.tiny import tiny_base
from tuner.registry import Registry

WORDS = [
    "the",
    "lamp",
    "glows",
    "amber",
    "bell",
    "rings",
    "bronze",
    "noon",
    "cup",
    "water",
    "what",
    "in",
    "a",
]


def build_cross_encoder(folder: Path, labels: int = 1, head: bool = True, seed: int = 0) -> Path:
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        num_labels=labels,
        initializer_range=0.5,
    )
    model = BertForSequenceClassification(config) if head else BertModel(config)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_cross_encoder(tmp_path_factory.mktemp("models") / "tiny-reranker")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "lamp.md").write_text(
        "# Lamp\n\n" + "\n\n".join(f"## Part {n}\n\nThe lamp glows amber in {n}." for n in range(6))
    )
    (documents / "bell.md").write_text("# Bell\n\nThe bell rings at noon.\n")
    (documents / "cup.md").write_text("# Cup\n\nThe cup of amber water.\n")
    sync(Workspace(tmp_path), documents, HashEncoder(), 32)
    return Workspace(tmp_path)


class Lengths:
    """Prefers short passages."""

    id = "lengths"

    def __init__(self) -> None:
        self.read: list[tuple[str, list[str]]] = []

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        self.read.append((query, list(passages)))
        return [-float(len(text)) for text in passages]


def search(workspace: Workspace, how: Ranking, query: str = "the amber lamp", k: int = 10) -> list[Hit]:
    return Index.open(workspace, HashEncoder(), how).retriever().search([query], k)[0]


def test_reranked_results_come_in_the_order_of_its_scores_and_keep_the_others(workspace: Workspace) -> None:
    fused = search(workspace, FUSED)
    assert all(hit.rerank is None for hit in fused)
    reranker = Lengths()
    hits = search(workspace, Ranking(reranker))
    scores = [hit.rerank for hit in hits]
    assert scores == sorted(scores, key=lambda score: -(score or 0.0))
    assert {(hit.chunk.id, hit.score) for hit in hits} == {(hit.chunk.id, hit.score) for hit in fused}
    assert hits[0].chunk.document_id == "cup.md"
    [(query, passages)] = reranker.read
    assert query == "the amber lamp"
    assert "Lamp > Part 3\nThe lamp glows amber in 3." in passages


def test_only_the_best_fused_are_read_whatever_number_is_asked_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever, "RERANKED", 3)
    fused = search(workspace, FUSED)
    hits = search(workspace, Ranking(Lengths()))
    assert {hit.chunk.id for hit in hits[:3]} == {hit.chunk.id for hit in fused[:3]}
    assert [hit.chunk.id for hit in hits[3:]] == [hit.chunk.id for hit in fused[3:]]
    assert [hit.rerank is None for hit in hits] == [False] * 3 + [True] * (len(hits) - 3)
    assert [hit.chunk.id for hit in search(workspace, Ranking(Lengths()), k=2)] == [
        hit.chunk.id for hit in hits[:2]
    ]


def test_no_more_than_the_limit_come_from_one_document(workspace: Workspace) -> None:
    fused = search(workspace, FUSED)
    hits = search(workspace, Ranking(max_per_document=2), k=4)
    names = [hit.chunk.document_id for hit in hits]
    assert names.count("lamp.md") == 2
    assert sorted(names) == ["bell.md", "cup.md", "lamp.md", "lamp.md"]
    kept = [hit.chunk.id for hit in fused if hit.chunk.id in {hit.chunk.id for hit in hits}]
    assert [hit.chunk.id for hit in hits] == kept
    assert len(search(workspace, Ranking(max_per_document=1))) == 3


def test_the_limit_keeps_what_the_reranker_likes_best(workspace: Workspace) -> None:
    by_length = [h for h in search(workspace, Ranking(Lengths())) if h.chunk.document_id == "lamp.md"]
    both = search(workspace, Ranking(Lengths(), max_per_document=1))
    assert [h.chunk.id for h in both if h.chunk.document_id == "lamp.md"] == [by_length[0].chunk.id]


def test_a_cross_encoder_of_a_folder_scores_each_pair_alike_in_any_company(model: Path) -> None:
    reranker = load_reranker(str(model))
    together = reranker.score("what glows", ["the lamp glows amber", "the bell rings in a noon of bronze"])
    alone = [reranker.score("what glows", [text])[0] for text in ("the lamp glows amber",)]
    assert together[0] == pytest.approx(alone[0], abs=1e-5)
    assert together[0] != together[1]
    assert reranker.id.startswith("tiny-reranker:")


def test_identity_is_found_without_loading_the_model_and_follows_its_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = IndexConfig(rerank=str(model), max_per_document=2)
    loaded = load_ranking(settings).identity
    other = build_cross_encoder(tmp_path / "tiny-reranker", seed=1)
    monkeypatch.delattr(ranking, "CrossEncoderReranker")
    assert ranking_identity(settings) == loaded
    assert ranking_identity(IndexConfig(rerank=str(other), max_per_document=2)) != loaded
    assert ranking_identity(IndexConfig()) == FUSED.identity


@pytest.mark.parametrize(
    ("built", "said"),
    [
        ({"labels": 3}, "gives 3 scores for a passage"),
        ({"head": False}, "BertModel gives no score for a question and a passage"),
    ],
)
def test_a_model_that_cannot_rerank_is_refused(tmp_path: Path, built: dict[str, int], said: str) -> None:
    folder = build_cross_encoder(tmp_path / "model", **built)
    with pytest.raises(EncoderError, match=said):
        load_reranker(str(folder))


def test_a_model_out_of_reach_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("Got: ConnectError\nPlease check your internet connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(EncoderError, match=r"within reach .Got: ConnectError Please check"):
        load_reranker("no-such/model")


def test_pickled_weights_and_remote_code_are_refused(tmp_path: Path) -> None:
    folder = build_cross_encoder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "invented", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('remote code has run')")
    with pytest.raises(EncoderError, match="not a usable cross-encoder"):
        load_reranker(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"no \.safetensors weights"):
        load_reranker(str(folder))


def test_search_command_shows_the_scores_of_the_cross_encoder(
    workspace: Workspace, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "load_encoder", lambda _: HashEncoder())
    settings = IndexConfig(rerank=str(model), max_per_document=1)
    commands.index_search(workspace, settings, ModelConfig(), "amber", 5, as_json=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(lines) == 3
    assert all("; rerank " in line for line in lines)


def test_the_ranking_is_part_of_what_names_answers_and_evaluations(
    workspace: Workspace, tmp_path: Path
) -> None:
    base, route = tiny_base(), Route("rag", retrieve=True)

    def identities(how: Ranking) -> tuple[str, str]:
        index = Index.open(workspace, HashEncoder(), how)
        answerer = Answerer(base, ScriptedGenerator(), index, Registry(tmp_path / "adapters"), {"rag": route})
        return answerer.identity(route), answerer.lasting_identity(route)

    plain, limited, reranked = (identities(how) for how in (FUSED, Ranking(None, 2), Ranking(Lengths())))
    assert len({plain[0], limited[0], reranked[0]}) == len({plain[1], limited[1], reranked[1]}) == 3


def test_the_ranking_is_part_of_the_setup_of_an_evaluation(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.local.base_identity", lambda _: "base")
    routes = {"rag": Route("rag", retrieve=True)}
    plain = local_setup(workspace, ModelConfig(), routes, [], IndexConfig())
    limited = local_setup(workspace, ModelConfig(), routes, [], IndexConfig(max_per_document=2))
    assert plain.making != limited.making
    assert {**asdict(plain), "making": ""} == {**asdict(limited), "making": ""}
