"""What the service counts and times, for Prometheus: vLLM's names where it has them, under the prefix `openbook:`.

Labels are names from the configuration and statuses: never text, prompts or keys.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.admission import Generated
from service.answer import Answer
from service.prefix_cache import PrefixCache

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One set of counters for one service; `page()` is what `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "openbook:http_requests",
            "Requests by endpoint and HTTP status.",
            ["method", "endpoint", "status"],
            registry=registry,
        )
        self.answers = Counter(
            "openbook:request_success",
            "Answers by route and how they ended.",
            ["route", "finished_reason"],
            registry=registry,
        )
        self.failures = Counter(
            "openbook:request_failure",
            "Questions without an answer, by route and error.",
            ["route", "error"],
            registry=registry,
        )
        self.experiment_requests = Counter(
            "openbook:experiment_requests",
            "Requests that an experiment assigned, by arm.",
            ["experiment", "route"],
            registry=registry,
        )
        self.experiment_outcomes = Counter(
            "openbook:experiment_outcomes",
            "Feedback on answers of a running experiment, by arm.",
            ["experiment", "route", "outcome"],
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "openbook:prompt_tokens", "Prompt tokens of answers, by route.", ["route"], registry=registry
        )
        self.generation_tokens = Counter(
            "openbook:generation_tokens", "Answer tokens, by route.", ["route"], registry=registry
        )
        self.e2e_seconds = Histogram(
            "openbook:e2e_request_latency_seconds",
            "From the question to the whole answer, by route.",
            ["route"],
            buckets=LONG,
            registry=registry,
        )
        self.retrieval_seconds = Histogram(
            "openbook:retrieval_time_seconds", "Looking up passages.", buckets=SHORT, registry=registry
        )
        self.queue_seconds = Histogram(
            "openbook:request_queue_time_seconds",
            "Waiting for the model thread.",
            buckets=LONG,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "openbook:time_to_first_token_seconds",
            "From the queue to the first token.",
            buckets=LONG,
            registry=registry,
        )
        self.inter_token_seconds = Histogram(
            "openbook:inter_token_latency_seconds",
            "Mean time between two tokens of an answer.",
            buckets=SHORT,
            registry=registry,
        )
        self.batch_size = Histogram(
            "openbook:batch_rows", "Rows that one step advances.", buckets=ROWS, registry=registry
        )
        self.index_generation = Gauge(
            "openbook:index_generation", "Generation of the index last searched.", registry=registry
        )
        self.adapter_version = Gauge(
            "openbook:adapter_version", "Version of each adapter last used.", ["adapter"], registry=registry
        )
        self._waiting = Gauge("openbook:num_requests_waiting", "Requests in the queue.", registry=registry)
        self._prefix_hits = Gauge(
            "openbook:prefix_cache_hits", "Prompts whose start was remembered.", registry=registry
        )
        self._prefix_queries = Gauge("openbook:prefix_cache_queries", "Prompts looked up.", registry=registry)
        self._prefix_bytes = Gauge(
            "openbook:prefix_cache_bytes", "Memory of remembered prompt starts.", registry=registry
        )

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Show the length of the queue."""
        self._waiting.set_function(waiting)

    def watch_prefixes(self, cache: PrefixCache) -> None:
        """Show what the prefix cache does."""
        self._prefix_hits.set_function(lambda: cache.hits)
        self._prefix_queries.set_function(lambda: cache.hits + cache.misses)
        self._prefix_bytes.set_function(lambda: cache.nbytes)

    def generated(self, generated: Generated) -> None:
        """One submission left the model thread."""
        self.queue_seconds.observe(generated.queue_ms / 1000)
        self.first_token_seconds.observe((generated.queue_ms + generated.first_token_ms) / 1000)
        tokens = max(decoded.completion_tokens for decoded in generated.decoded)
        if tokens > 1:
            spent = (generated.generate_ms - generated.first_token_ms) / 1000
            self.inter_token_seconds.observe(spent / (tokens - 1))

    def answered(self, answer: Answer) -> None:
        """One answer went out."""
        self.answers.labels(answer.route, answer.finish_reason).inc()
        self.prompt_tokens.labels(answer.route).inc(answer.prompt_tokens)
        self.generation_tokens.labels(answer.route).inc(answer.completion_tokens)
        self.e2e_seconds.labels(answer.route).observe(answer.timings_ms.total / 1000)
        if answer.generation is not None:
            self.retrieval_seconds.observe(answer.timings_ms.retrieve / 1000)
            self.index_generation.set(answer.generation)
        if answer.adapter is not None:
            name, _, version = answer.adapter.partition("@")
            self.adapter_version.labels(name).set(int(version))

    def page(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)
