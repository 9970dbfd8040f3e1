"""Metrics in Prometheus' text format, without its library."""

import threading
from dataclasses import asdict

from crossrank import CallRecord, CrossEncoder

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, float("inf"))
GAUGES = {"waiting_requests", "waiting_tokens", "batch_fill"}


class CallSeconds:
    """A histogram of the calls that were done; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts, self._sum = [0] * len(BOUNDS_S), 0.0

    def observe(self, call: CallRecord) -> None:
        if call.ending == "done":
            with self._lock:
                self._sum += call.seconds
                for i, bound in enumerate(BOUNDS_S):
                    self._counts[i] += call.seconds <= bound

    def text(self) -> str:
        with self._lock:
            counts, total = list(self._counts), self._sum
        lines = ["# TYPE crossrank_call_seconds histogram"]
        for bound, count in zip(BOUNDS_S, counts, strict=True):
            label = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'crossrank_call_seconds_bucket{{le="{label}"}} {count}')
        lines += [f"crossrank_call_seconds_sum {total}", f"crossrank_call_seconds_count {counts[-1]}"]
        return "\n".join(lines) + "\n"


call_seconds = CallSeconds()
model = CrossEncoder(on_call=call_seconds.observe)


def metrics() -> str:
    """What the /metrics page answers."""
    lines = []
    for name, value in asdict(model.stats()).items():
        kind, suffix = ("gauge", "") if name in GAUGES else ("counter", "_total")
        lines += [f"# TYPE crossrank_{name}{suffix} {kind}", f"crossrank_{name}{suffix} {value}"]
    return "\n".join(lines) + "\n" + call_seconds.text()
