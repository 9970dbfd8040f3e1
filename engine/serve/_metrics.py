"""The metrics of a server, in Prometheus' form: all names are there at the first scrape."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ._dialects import DIALECTS
from ._models import WINDOW_S, Served
from ._workers import Peers

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GRPC = "tei_grpc"  # among the dialects
# What became of a request: answered, answered in part, or why not.
OUTCOMES = ("complete", "partial", "refused", "overloaded", "cancelled", "failed")
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_GAUGES = ("waiting_requests", "waiting_tokens", "batch_fill")
_HELP = {
    "late": "calls that came back at their deadline, without the scores of some documents",
    "model_s": "seconds of all lanes spent in the model",
    "tokenizing_s": "seconds of all threads spent on tokenizing",
    "batch_fill": "of the places in batches, in tokens, the share that was taken",
}


class Metrics:
    """What a server counts itself, beside what its models count.

    Args:
        models: By name.

    Attributes:
        peers: The other workers, or None for none.
    """

    def __init__(self, models: Mapping[str, Served]) -> None:
        self.peers: Peers | None = None
        self._registry = CollectorRegistry()
        self._requests = _Requests()
        self._seconds = Histogram(
            "crossrank_http_request_seconds",
            "from a request's arrival to its answer, of those answered",
            registry=None,
            buckets=_BOUNDS_S,
        )
        for collector in (self._requests, self._seconds, _OfModels(models)):
            self._registry.register(collector)

    def count(self, dialect: str, outcome: str, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.counts[dialect, outcome] += 1
        if outcome in ("complete", "partial"):
            self._seconds.observe(seconds)

    def own(self) -> bytes:
        """What this process counted."""
        return generate_latest(self._registry)

    def text(self) -> bytes:
        """What /metrics answers: of all workers, where there are several."""
        return self.own() if self.peers is None else self.peers.joined(self.own())


class _Requests(Collector):
    """Requests by dialect and outcome, all from the start; the library's own counter also tells when each began."""

    def __init__(self) -> None:
        names = [*(dialect.name for dialect in DIALECTS), GRPC]
        self.counts = {(name, outcome): 0 for name in names for outcome in OUTCOMES}

    def collect(self) -> Iterable[Metric]:
        """The counts until now."""
        metric = CounterMetricFamily(
            "crossrank_http_requests", "rerank requests by what became of them", labels=["dialect", "outcome"]
        )
        for labels, count in self.counts.items():
            metric.add_metric(labels, count)
        return [metric]


class _OfModels(Collector):
    """What the models count: `Stats`, under the names that docs/serving.md gives them, and how busy they are."""

    def __init__(self, models: Mapping[str, Served]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """The sums until now."""
        stats = {name: asdict(served.model.stats()) for name, served in self._models.items()}
        for field in next(iter(stats.values())):
            family = GaugeMetricFamily if field in _GAUGES else CounterMetricFamily
            metric = family(f"crossrank_{field}", _HELP.get(field, field.replace("_", " ")), labels=["model"])
            for name, values in stats.items():
                metric.add_metric([name], values[field])
            yield metric
        busy = GaugeMetricFamily(
            "crossrank_busy_ratio",
            f"share of the last {WINDOW_S:g} s in which the model's lanes computed: 1 means that it can do no more",
            labels=["model"],
        )
        speed = GaugeMetricFamily(
            "crossrank_tokens_per_second", f"tokens computed in the last {WINDOW_S:g} s, per second", labels=["model"]
        )
        for name, served in self._models.items():
            ratio, tokens = served.sample()
            busy.add_metric([name], ratio)
            speed.add_metric([name], tokens)
        yield busy
        yield speed
