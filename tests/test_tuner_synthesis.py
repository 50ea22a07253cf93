import json
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

import tuner.endpoint as endpoint_module
from indexer.corpus import Question, Split
from tuner.config import SynthesisConfig
from tuner.endpoint import Ask, Endpoint, SynthesisError
from tuner.examples import Passage
from tuner.synthesis import estimate, synthesise

PASSAGES = [
    Passage("wren.md", "Wren", "The Wren weighs 600 g. Stroud drew it."),
    Passage("x.md", "X", "Nothing."),
]
QUESTIONS = [
    Question("q1", "What does a Wren weigh?", ("600 g",), ("wren.md",), Split.TRAIN),
    Question("q2", "What colour is it?", (), ("wren.md",), Split.TRAIN),
]
TEST = [Question("t1", "Who drew the Wren first?", ("Stroud",), ("wren.md",), Split.TEST)]


class FakeServer:
    """An OpenAI-compatible endpoint whose replies follow from the instructions; remembers what it was sent."""

    def __init__(self):
        self.requests, self.statuses, self.authorization = [], [], None
        self.most_at_once = self._now = 0
        self.tokens = 10
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                with outer._lock:
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                    status = outer.statuses.pop(0) if outer.statuses else 200
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.authorization = self.headers.get("Authorization")
                text = outer.reply(*(m["content"] for m in body["messages"]))
                choice = {"message": {"content": text}}
                data = json.dumps({"choices": [choice], "usage": {"total_tokens": outer.tokens}}).encode()
                with outer._lock:
                    outer._now -= 1
                self.send_response(status if self.path == "/v1/chat/completions" else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def reply(self, system, user):
        if "rewrite questions" in system:
            return (
                'Sure:\n["How heavy is a Wren?", "What does a Wren weigh?", "How much does one Wren weigh?"]'
            )
        if "quiz questions" in system:
            if "Nothing" in user:
                return "I cannot."
            made = [
                {"question": "Who designed the letter capsule?", "answer": "Stroud"},
                {"question": "Who drew the Wren?", "answer": "Stroud"},
                {"question": "Where was it made?", "answer": "Paris"},
            ]
            return json.dumps(made)
        if "restate" in system:
            return '["A Wren is 600 g heavy."]'
        return "Stroud drew it" if "designed" in user or "drew" in user.split("Question:")[-1] else "unknown"


@pytest.fixture
def server():
    fake = FakeServer()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def opened(server, tmp_path):
    endpoints = []

    def open_endpoint(**changes):
        settings = SynthesisConfig(url=server.url, model="writer", **changes)
        endpoints.append(Endpoint(settings, tmp_path / "cache"))
        return endpoints[-1], settings

    yield open_endpoint
    for endpoint in endpoints:
        endpoint.close()


def run(opened, **changes):
    endpoint, settings = opened(**changes)
    return synthesise(endpoint, settings, PASSAGES, QUESTIONS, TEST)


def test_paraphrases_keep_the_answer_and_new_questions_survive_the_round_trip(opened):
    made = run(opened)
    assert [(q.text, q.answers, q.document_ids) for q in made.questions] == [
        ("How heavy is a Wren?", ("600 g",), ("wren.md",)),
        ("How much does one Wren weigh?", ("600 g",), ("wren.md",)),
        ("Who designed the letter capsule?", ("Stroud",), ("wren.md",)),
    ]
    assert {q.split for q in made.questions} == {Split.TRAIN}
    assert made.not_recovered == 1
    assert made.unreadable == 1
    assert made.statements[0] == Passage("wren.md", "Wren", "A Wren is 600 g heavy.")


def test_what_is_written_too_near_a_test_question_is_dropped_and_the_test_questions_are_never_sent(
    opened, server
):
    made = run(opened)
    assert made.like_test == 1
    assert not any("first" in json.dumps(request) for request in server.requests)


def test_a_second_run_asks_for_nothing(opened, server):
    first = run(opened)
    count = len(server.requests)
    assert run(opened) == first
    assert len(server.requests) == count


def test_the_estimate_asks_for_nothing_and_is_not_exceeded(opened, server):
    endpoint, settings = opened()
    expected = estimate(endpoint, settings, PASSAGES, QUESTIONS)
    assert server.requests == []
    run(opened)
    assert expected.requests >= len(server.requests) > 0
    assert expected.most_tokens > 10 * len(server.requests)
    assert estimate(endpoint, settings, PASSAGES, QUESTIONS).requests == 0


@pytest.mark.parametrize("questions", [1, 3])
def test_the_estimate_holds_in_scripts_of_more_bytes_than_signs(opened, server, questions):
    passages = [
        Passage("misosazai.md", "ミソサザイ", "ミソサザイの重さは六百グラムで、描いたのはストラウドである。")
    ]
    endpoint, settings = opened(paraphrases=0, statements=0, questions=questions)
    expected = estimate(endpoint, settings, passages, [])
    synthesise(endpoint, settings, passages, [], TEST)
    sent = [
        Ask(*(message["content"] for message in body["messages"]), body["max_tokens"])
        for body in server.requests
    ]
    assert 1 < len(sent) <= expected.requests
    assert sum(ask.most_tokens for ask in sent) <= expected.most_tokens


def test_a_budget_that_does_not_suffice_is_refused_before_anything_is_sent(opened, server):
    with pytest.raises(SynthesisError, match=r"tune.synthesis.max_tokens = 50"):
        run(opened, max_tokens=50)
    assert server.requests == []


def test_a_budget_that_does_not_suffice_for_all_is_refused_before_anything_is_sent(opened, server):
    endpoint, settings = opened()
    needed = estimate(endpoint, settings, PASSAGES, QUESTIONS).most_tokens
    with pytest.raises(SynthesisError, match=f"synthesis may take {needed:,} tokens"):
        run(opened, max_tokens=needed - 1)
    assert server.requests == []


def test_replies_that_cost_more_than_estimated_end_at_the_budget(opened, server, monkeypatch):
    monkeypatch.setattr(server, "tokens", 60)
    endpoint, settings = opened(max_tokens=400, concurrency=1)
    asks = [Ask("rewrite questions", str(i), 10) for i in range(20)]
    with pytest.raises(SynthesisError, match="one more request might exceed"):
        endpoint.replies(asks, "asking")
    assert endpoint.tokens_used < settings.max_tokens + server.tokens
    assert len(server.requests) == 7


def test_attempts_that_time_out_count_as_if_they_were_answered(opened, server, monkeypatch):
    monkeypatch.setattr(endpoint_module, "_FIRST_PAUSE_SECONDS", 0.0)
    endpoint, _ = opened(max_tokens=40)

    def late(*_arguments, **_settings):
        raise httpx.ReadTimeout("too late")

    monkeypatch.setattr(endpoint._client, "post", late)
    ask = Ask("rewrite questions", "x", 10)  # 15 tokens at most, so that a third attempt might exceed 40
    with pytest.raises(SynthesisError, match="30 tokens are used, and one more request might exceed"):
        endpoint.replies([ask], "asking")


def test_two_servers_of_one_model_name_are_two_writers(opened, server, tmp_path):
    endpoint, settings = opened()
    ask = Ask("rewrite questions", "x", 10)
    endpoint.replies([ask], "asking")
    elsewhere = settings.model_copy(update={"url": "http://127.0.0.1:9/v1/"})
    with closing(Endpoint(elsewhere, tmp_path / "cache")) as other:
        assert other.estimate([ask])[0] == 1


def test_requests_run_at_once_up_to_the_limit(opened, server):
    endpoint, _ = opened(concurrency=3)
    asks = [Ask("rewrite questions", str(i), 10) for i in range(20)]
    assert len(endpoint.replies(asks, "asking")) == 20
    assert server.most_at_once <= 3
    assert endpoint.tokens_used == 200


def test_a_busy_endpoint_is_asked_again(opened, server, monkeypatch):
    monkeypatch.setattr(endpoint_module, "_FIRST_PAUSE_SECONDS", 0.0)
    server.statuses = [429, 503]
    endpoint, _ = opened()
    assert endpoint.replies([Ask("restate", "x", 10)], "asking") == ['["A Wren is 600 g heavy."]']


@pytest.mark.parametrize(
    ("status", "said"), [(401, "OPENBOOK_SYNTHESIS_KEY"), (404, "answered 404"), (500, "4 times")]
)
def test_an_endpoint_that_refuses_is_named_with_the_status(opened, server, monkeypatch, status, said):
    monkeypatch.setattr(endpoint_module, "_FIRST_PAUSE_SECONDS", 0.0)
    server.statuses = [status] * 9
    endpoint, _ = opened()
    with pytest.raises(SynthesisError, match=said):
        endpoint.replies([Ask("restate", "x", 10)], "asking")


def test_an_unreachable_endpoint_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint_module, "_FIRST_PAUSE_SECONDS", 0.0)
    endpoint = Endpoint(SynthesisConfig(url="http://127.0.0.1:9/v1", model="m"), tmp_path)
    with pytest.raises(SynthesisError, match="cannot be reached"):
        endpoint.replies([Ask("a", "b", 5)], "asking")
    endpoint.close()


def test_the_key_comes_from_the_environment(opened, server, monkeypatch):
    monkeypatch.setenv("OPENBOOK_SYNTHESIS_KEY", "secret")
    endpoint, _ = opened()
    endpoint.replies([Ask("restate", "x", 10)], "asking")
    assert server.authorization == "Bearer secret"
