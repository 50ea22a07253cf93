import pytest
from tiny import tiny_base

from indexer.corpus import Question, Split
from tuner.config import Method, TuneConfig
from tuner.examples import Passage
from tuner.material import Material
from tuner.methods import MethodError
from tuner.search import SearchError, search_settings

pytest.importorskip("optuna")

PASSAGES = [Passage("wren.md", "Wren", "The Wren weighs 600 g.")]
TRAIN = [Question("q1", "What does a Wren weigh?", ("600 g",), ("wren.md",), Split.TRAIN)]
SETTINGS = TuneConfig(
    rank=2, document_passes=1, closed_book_passes=1, open_book_passes=1, dev_checks=2, tokens_per_step=64
)


def material(questions=TRAIN):
    return Material(PASSAGES, questions, lambda asked, k: [PASSAGES[:k] for _ in asked])


class Scores:
    """Dev scores in the order given; counts how often it was asked."""

    identity = "as given"

    def __init__(self, *values):
        self.values, self.asked = list(values), 0

    def __call__(self, _model):
        self.asked += 1
        return {"score": self.values.pop(0) if self.values else 0.5}


def run(folder, scorer, trials, questions=TRAIN, settings=SETTINGS):
    return search_settings(tiny_base(), material(questions), settings, scorer, trials, folder)


def test_the_users_own_settings_are_tried_first_and_the_best_are_reported(tmp_path):
    found = run(tmp_path, Scores(0.9, 0.9, 0.1, 0.1), trials=2)
    assert found.score == 0.9
    assert found.complete == 2
    assert found.settings == {
        "learning_rate": SETTINGS.learning_rate,
        "rank": 2,
        "document_passes": 1,
        "closed_book_passes": 1,
        "open_book_passes": 1,
        "gold_present": SETTINGS.gold_present,
        "open_book_rate": SETTINGS.open_book_rate,
    }
    assert "[tune]\nlearning_rate = 0.001\nrank = 2" in found.describe()


def test_a_search_goes_on_where_it_was_and_is_not_repeated(tmp_path):
    run(tmp_path, Scores(0.9, 0.9), trials=1)
    again = Scores()
    assert run(tmp_path, again, trials=1).score == 0.9
    assert again.asked == 0
    assert run(tmp_path, Scores(), trials=2).complete == 2


def test_changed_settings_are_tried_next_whatever_they_are(tmp_path):
    run(tmp_path, Scores(0.9, 0.9), trials=1)
    changed = SETTINGS.model_copy(
        update={"learning_rate": 0.1, "document_passes": 8, "gold_present": 0.2, "open_book_rate": 3.0}
    )
    assert run(tmp_path, Scores(0.95, 0.95), trials=2, settings=changed).settings == {
        "learning_rate": 0.1,
        "rank": 2,
        "document_passes": 8,
        "closed_book_passes": 1,
        "open_book_passes": 1,
        "gold_present": 0.2,
        "open_book_rate": 3.0,
    }
    # They are tried once.
    assert run(tmp_path, Scores(0.96, 0.96), trials=3, settings=changed).settings["document_passes"] != 8


def test_another_corpus_is_another_search(tmp_path):
    run(tmp_path, Scores(0.9, 0.9), trials=1)
    other = [Question("q9", "How heavy?", ("600 g",), ("wren.md",), Split.TRAIN)]
    assert run(tmp_path, Scores(0.2, 0.2), trials=1, questions=other).score == 0.2


def test_a_killed_trial_is_not_continued_by_other_dev_questions(tmp_path):
    class Killed(Scores):
        def __call__(self, model):
            if self.asked == 1:
                raise KeyboardInterrupt
            return super().__call__(model)

    with pytest.raises(KeyboardInterrupt):
        leaving(tmp_path, Killed(0.99))
    other = Scores(0.2, 0.2)
    other.identity = "on other dev questions"
    assert run(tmp_path, other, trials=1).score == 0.2
    assert other.asked == 2


def leaving(folder, scorer):
    """A search whose process is killed: nothing is tidied up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.search.shutil.rmtree", lambda *_args, **_options: None)
        run(folder, scorer, trials=1)


def test_ranks_that_do_not_fit_the_model_are_left_and_given_ones_are_reported(tmp_path):
    pissa = SETTINGS.model_copy(update={"method": Method.PISSA, "learning_rate": 1e-3, "rank": 4})
    assert run(tmp_path / "a", Scores(), trials=6, settings=pissa).complete
    with pytest.raises(MethodError, match="pissa"):
        run(tmp_path / "b", Scores(), trials=6, settings=pissa.model_copy(update={"rank": 64}))


def test_trials_scored_otherwise_are_another_search(tmp_path):
    run(tmp_path, Scores(0.9, 0.9), trials=1)
    other = Scores(0.2, 0.2)
    other.identity = "on other dev questions"
    assert run(tmp_path, other, trials=1).score == 0.2


def test_bad_trials_are_stopped_early_and_importance_is_told(tmp_path):
    good = [0.8] * 8
    found = run(tmp_path, Scores(*good, 0.1), trials=5)
    assert (found.complete, found.pruned) == (4, 1)
    assert set(found.importance) <= set(found.settings)
    assert sum(found.importance.values()) == pytest.approx(1.0)


def test_a_killed_trial_counts_as_failed(tmp_path):
    class Killed(Scores):
        def __call__(self, _model):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Killed(), trials=2)
    found = run(tmp_path, Scores(), trials=2)
    assert (found.complete, found.failed) == (2, 1)  # what was interrupted is tried again
    assert found.settings["learning_rate"] == SETTINGS.learning_rate  # the user's own come first, still


def test_a_method_without_rank_is_searched_without_one(tmp_path):
    found = run(tmp_path, Scores(), trials=1, settings=SETTINGS.model_copy(update={"method": Method.IA3}))
    assert "rank" not in found.settings


def test_a_search_without_a_whole_trial_says_so(tmp_path, monkeypatch):
    import torch

    import tuner.train as training

    monkeypatch.setattr(training, "batch_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(SearchError, match=r"none of 2 trials.*tune\.learning_rate"):
        run(tmp_path, Scores(), trials=2)
