"""Ray Data and Ray's actors, each with a `Reranker`."""

import copy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.util.actor_pool import ActorPool

from crossrank import CrossrankError, InputError
from crossrank.batch import Reranker

_LISTS, _PAIRS = 64, 4_096  # rows of a batch: what a killed actor does again


def rerank(
    ds: Any,
    model: str | Path = "crossrank-mini-en",
    *,
    query: str = "query",
    documents: str = "documents",
    top_k: int | None = None,
    actors: int | tuple[int, int] | None = None,
    num_cpus: int = 1,
    num_gpus: float | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> Any:
    """Rerank a dataset, as ``ds.map_batches(Reranker, …)`` does, with the options that suit it.

    Lazy as Ray's transformations are, but for the dataset's schema, which is asked for. The rows of an actor that dies
    are scored by another one.

    Args:
        ds: A Ray dataset, with rows as `crossrank.batch.Reranker` has them: a query with its list of documents, or a
            pair.
        model: A name, or a folder that every worker has.
        query: The column of queries.
        documents: The column of documents.
        top_k: Keep each query's best only. Of pairs Ray groups the rows by their query for it, which sorts them.
        actors: How many workers, or the fewest and the most of them; None lets Ray take what is free.
        num_cpus: Cores of a worker, which are its threads.
        num_gpus: GPUs of a worker.
        batch_size: Rows of a batch; by default 64 lists or 4,096 pairs.
        options: Of `Reranker`.

    Returns:
        The dataset with new columns. Pairs have a rank only with ``top_k``: others of their query may be elsewhere. One
        without rows and columns is given back as it is.

    Raises:
        InputError: If an option is not what it can be, a column is absent, or the first rows' documents are all null.
    """
    if type(num_cpus) is not int or num_cpus < 1:
        raise InputError(f"num_cpus={num_cpus!r:.60}: whole cores are needed, 1 or more, since they are threads")
    options |= {"query": query, "documents": documents, "top_k": top_k}
    options.setdefault("threads", num_cpus)
    reranker = Reranker(model, **options)  # what can be refused is refused here
    schema = ds.schema()
    if schema is None or not schema.names:  # without rows
        return ds
    reranker.check(schema.names)
    kind = schema.types[schema.names.index(documents)]
    if kind == pa.null():
        raise InputError(
            f"{documents!r} has nulls alone in the first rows, so that it may hold texts or lists of them: cast it to "
            "pa.string() or pa.list_(pa.string())"
        )
    lists = isinstance(kind, pa.DataType) and pa.types.is_nested(kind)
    if actors is None:
        compute = ray.data.ActorPoolStrategy()
    elif isinstance(actors, int):
        compute = ray.data.ActorPoolStrategy(size=actors)
    else:
        compute = ray.data.ActorPoolStrategy(min_size=actors[0], max_size=actors[1])
    given: dict[str, Any] = {"batch_format": "pyarrow", "compute": compute, "num_cpus": num_cpus, "num_gpus": num_gpus}
    given["fn_constructor_kwargs"] = {"model": str(model), **options}
    if not lists and top_k is not None:
        return ds.groupby(query).map_groups(Reranker, **given)
    if not lists:
        given["fn_constructor_kwargs"]["ranks"] = False
    return ds.map_batches(Reranker, batch_size=batch_size or (_LISTS if lists else _PAIRS), **given)


def actors(
    address: str | None = None, *, count: int | None = None, num_cpus: int = 1
) -> Callable[[Reranker, Iterable[tuple[int, Callable[[], Any]]]], Iterator[tuple[int, Any]]]:
    """What `crossrank.batch.rerank_file` takes as ``run``: blocks go to actors, which Ray starts again when they die.

    Args:
        address: Of a cluster, as in ``ray.init``; None for the one of this process, or "local" for one started here.
        count: How many actors, None for as many as the cluster has cores for.
        num_cpus: Cores of an actor, which are its threads.

    Raises:
        InputError: If a number is none; from the function, if the cluster has no room for so many actors.
    """
    for name, value in (("count", 1 if count is None else count), ("num_cpus", num_cpus)):
        if type(value) is not int or value < 1:
            raise InputError(f"{name}={value!r:.60}: an integer from 1 is needed")

    def run(reranker: Reranker, blocks: Iterable[tuple[int, Callable[[], Any]]]) -> Iterator[tuple[int, Any]]:
        started = not ray.is_initialized()
        if started:
            ray.init(address=address, include_dashboard=False if address == "local" else None, log_to_driver=False)
        try:
            worker = copy.copy(reranker)
            worker.threads = reranker.threads or num_cpus
            nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
            room = sum(cores // num_cpus for cores in nodes)  # an actor lies on one node
            many = count or room
            if not 0 < many <= room:  # those beyond it would be waited for without an end
                raise InputError(
                    f"{many or 1} actors with num_cpus={num_cpus}: ask for fewer; there is room for {room}, "
                    f"on nodes of {', '.join(map(str, nodes))} cores"
                )
            # A block that ends ten actors, by their memory for example, would end all that follow.
            kind = ray.remote(num_cpus=num_cpus, max_restarts=-1, max_task_retries=10)(_Worker)
            pool = ActorPool([kind.remote(worker) for _ in range(many)])
            for number, make in blocks:
                while not pool.has_free():
                    yield _next(pool)
                pool.submit(_score, (number, make()))
            while pool.has_next():
                yield _next(pool)
        finally:
            if started:
                ray.shutdown()

    return run


class _Worker:
    """An actor with a model, loaded with its first block: what fails in a constructor does not reach the caller."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker

    def score(self, number: int, block: Any) -> tuple[int, Any]:
        """A block, scored."""
        return number, self._reranker.block(block)


def _score(actor: Any, block: tuple[int, Any]) -> Any:
    return actor.score.remote(*block)


def _next(pool: Any) -> tuple[int, Any]:
    try:
        return pool.get_next_unordered()  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as error:  # of a worker: what it has raised
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise CrossrankError(f"Ray gave up on its workers: {error}") from error
