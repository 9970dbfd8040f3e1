"""Ray Serve's deployment around an `AsyncCrossEncoder`, with the paths of ``crossrank serve``."""

import math
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig

from crossrank import AsyncCrossEncoder, InputError, Overloaded
from crossrank.serve import create_app

_LOAD = 0.7  # of what a replica can do: beyond it others are started


def deployment(
    model: str = "crossrank-mini-en",
    *,
    name: str | None = None,
    documents_per_s: float = 1_000,
    documents: int = 100,
    latency_ms: float = 1_000,
    min_replicas: int = 1,
    max_replicas: int = 1,
    num_cpus: int = 1,
    num_gpus: float = 0,
    app: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> "serve.Application":
    """An application for ``serve.run``, whose replicas each have the model and answer every rerank client.

    How many requests a replica has under way follows from what it can do, by Little's law: at ``documents_per_s``, and
    requests of ``documents``, so many are answered within ``latency_ms`` that one more would be late. That is
    ``max_ongoing_requests``; ``target_ongoing_requests``, beyond which Ray starts another replica, is 0.7 of it.

    Args:
        model: A name, or a folder that every worker has.
        name: What requests call it, by default the last part of ``model``.
        documents_per_s: Of one replica, as ``crossrank bench --threads`` measures it with its cores.
        documents: Of a usual request.
        latency_ms: How long a request may take.
        min_replicas: The fewest replicas.
        max_replicas: The most.
        num_cpus: Cores of a replica, which are its threads.
        num_gpus: GPUs of a replica.
        app: Options of `crossrank.serve.create_app`: keys, limits, budgets.
        settings: Others of ``serve.deployment``, which win over what is said here.
        options: Of `AsyncCrossEncoder`.

    Returns:
        The application. A replica is healthy when a forward pass gives a number; one that is not, Ray replaces.

    Raises:
        InputError: If an option is not what it can be.
    """
    for what, value in (("documents_per_s", documents_per_s), ("documents", documents), ("latency_ms", latency_ms)):
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"{what}={value!r:.60}: a number above 0 is needed")
    if type(num_cpus) is not int or num_cpus < 1:
        raise InputError(f"num_cpus={num_cpus!r:.60}: whole cores are needed, 1 or more, since they are threads")
    most = max(1, int(documents_per_s / documents * latency_ms / 1000))
    served, of_app = name or model.rstrip("/").rpartition("/")[2], dict(app or {})
    options = {"threads": num_cpus, "max_queue_tokens": of_app.get("max_queue_tokens", 200_000)} | options

    def build() -> Any:
        encoder = AsyncCrossEncoder(model, **options)
        built = create_app({served: encoder}, **of_app)
        built.state.encoder = encoder
        return built

    @serve.ingress(build)
    class Rerank:
        """A replica."""

        async def check_health(self) -> None:
            """A forward pass; Ray replaces the replica where it fails."""
            try:
                (score,) = await self.app.state.encoder.score("ready", ["ready"])  # type: ignore[attr-defined]
            except Overloaded:  # it computes as fast as it can
                return
            if math.isnan(score):
                raise RuntimeError(f"{model} gives NaN")

    kept: dict[str, Any] = {
        "name": "crossrank",
        "max_ongoing_requests": most,
        "autoscaling_config": AutoscalingConfig(
            min_replicas=min_replicas, max_replicas=max_replicas, target_ongoing_requests=max(1.0, _LOAD * most)
        ),
        "ray_actor_options": {"num_cpus": num_cpus, "num_gpus": num_gpus},
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
    } | dict(settings or {})
    return serve.deployment(**kept)(Rerank).bind()
