"""`CrossEncoder`: pairs of texts in, scores or a ranking out."""

import os
from collections.abc import Callable, Iterable, Sized
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, Unpack

from ._artifact.activation import Activation, resolve_activation
from ._artifact.choice import check_precision
from ._artifact.locate import lasting_name, locate_model
from ._artifact.origin import EMBEDDED_MODEL
from ._artifact.tokenizer_file import TokenizerFile
from ._attributes import ModelAttributes, ModelCardData, load_again
from ._calls.call import Call, Calls, PairInputs, present
from ._calls.compatibility import (
    MODEL,
    ModelOptions,
    check_labels_asked,
    check_options,
    other_name,
)
from ._calls.inputs import read_documents
from ._calls.relevance import read_meaning
from ._calls.run import Run, Scorer
from ._device.open import open_model
from ._machine.cpu import resolve_threads
from ._machine.device import check_device, parse_device
from ._machine.onnxruntime import require_runtime
from ._numbers import whole_number
from ._options import check_hook, folder_path, switch
from ._printable import printable_line
from ._progress import Progress
from ._schedule.meter import Account, OnCall, Stats
from ._schedule.processes import Schedulers
from ._schedule.scheduler import Scheduler
from ._text.encoded import EncodedDocuments, encode_parts, join_tokens, texts_or_tokens

if TYPE_CHECKING:
    from ._info import ModelInfo

P = ParamSpec("P")
T = TypeVar("T")


def _run_at_once(
    method: Callable[Concatenate[Calls, P], Call[T]],
) -> Callable[[Callable[..., None]], Callable[Concatenate["CrossEncoder", P], T]]:
    """Put in a name's place a method of `Calls` that has the call run and gives its result."""

    def run(self: "CrossEncoder", /, *args: P.args, **options: P.kwargs) -> T:
        return self._run(method(self._calls, *args, **options))

    present(run, method, "CrossEncoder")
    return lambda name: run


class CrossEncoder(ModelAttributes):
    """A cross-encoder on the fastest graph for the device at hand.

    Threads may share one object: on a CPU their calls join into batches, and a small one passes larger ones. After a
    fork, a child gets its own session at its first call.

    A pickle holds what it was loaded with, name or folder and options, and is loaded again where it is read; not a
    ``token``, which is a secret: there the log-in's is used. Of a subclass it holds the attributes too, and its
    ``__init__`` does not run again. A copy, deep ones too, is the same model, graph, queue
    and `close`, with a ``max_length`` and an ``activation_fn`` of its own.

    Args:
        name_or_folder: By default crossrank-mini-en, the model that comes with crossrank (English, int8, CPU). Or
            an artifact folder; a checkpoint folder or a hub name, of which the graph for this precision and device is
            exported once into the cache (needs ``crossrank[export]`` then); a folder of config.json, tokenizer.json
            and ONNX files without weights, or one ONNX file in such a folder, which are used as they are. A hub name
            may stand for an artifact or such a folder too: what is needed of it is downloaded once.
        max_length: Most tokens of a joined pair; the model's own limit holds where it is smaller.
        precision: "fp32", "fp16", "int8", or "auto": fp32 on a CPU (int8 where the model has nothing else), fp16 on
            CUDA.
        device: "cpu", "cuda", "cuda:1", "tensorrt", "tensorrt:1", a torch.device of these, or None for CUDA where it
            really runs, else the CPU.
        threads: CPU threads, or None for as many as this process may use.
        activation_fn: What turns logits into scores, or None for the model's own: a function
            float32 [pairs, labels] -> the same shape, a name such as "sigmoid", or a torch module or function.
        relevant_label: Of a model with several labels the one that means "relevant", counted from 0; None for
            what the artifact says, which knows it of registered models.
        cache_folder: Where exported models lie; by default ``$CROSSRANK_HOME``, else the user's cache.
        revision: Hub revision.
        local_files_only: Never ask the hub.
        token: Hub token.
        max_queue_tokens: Most tokens that may wait for the model, or None. A call beyond it raises `Overloaded`,
            mostly before it is tokenized, by its characters; one that finds nobody else's is always taken.
        on_call: Called with a `CallRecord` when a call has ended, by whichever thread or event loop ends it; for a
            metrics library. What it raises is logged.
        others: sentence-transformers' options and names, accepted where they ask for nothing here (docs/migrating.md).

    Raises:
        ModelNotFoundError: If there is no such model.
        ModelError: If the model cannot be used: damaged, unsupported, or not proven exact.
        DeviceError: If the device that was asked for cannot run.
        InputError: If an option is not what it can be.
        MissingDependencyError: If onnxruntime is absent, or the model must be exported and ``crossrank[export]`` is.
    """

    def __init__(
        self,
        name_or_folder: str | Path = EMBEDDED_MODEL,
        *,
        max_length: int | None = None,
        precision: Literal["auto", "fp32", "fp16", "int8"] = "auto",
        device: object = None,
        threads: int | None = None,
        activation_fn: Activation | None = None,
        relevant_label: int | None = None,
        cache_folder: str | Path | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        max_queue_tokens: int | None = None,
        on_call: OnCall | None = None,
        **others: Unpack[ModelOptions],
    ) -> None:
        if others:
            for alias in ("model_name_or_path", "model_name"):
                name_or_folder = other_name("name_or_folder", name_or_folder, alias, others, EMBEDDED_MODEL)
            cache_folder = other_name("cache_folder", cache_folder, "cache_dir", others)
            activation_fn = other_name("activation_fn", activation_fn, "default_activation_function", others)
            check_options("CrossEncoder.__init__", MODEL, others)
        # What can be refused is refused before a model is downloaded or exported.
        require_runtime()
        thread_count = resolve_threads(threads)
        check_precision(precision)
        if max_queue_tokens is not None:
            allowed = "a positive integer, or None for no bound"
            max_queue_tokens = whole_number("max_queue_tokens", max_queue_tokens, 1, allowed)
        asked = None if device is None else parse_device(device)
        if asked is not None:
            check_device(asked)
        if activation_fn is not None:
            resolve_activation(activation_fn)
        check_hook("on_call", on_call)
        cache = None if cache_folder is None else folder_path("cache_folder", cache_folder)
        place = locate_model(
            name_or_folder,
            cache_folder=cache,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            precision=precision,
            device=asked,
        )
        model = self._model = open_model(place, asked, precision, thread_count, cache)
        manifest, backend = model.manifest, model.backend
        head = manifest.head if relevant_label is None else manifest.head.with_relevant(relevant_label)
        check_labels_asked(others, head.labels)
        name = printable_line(manifest.source.name)
        meaning = read_meaning(head, activation_fn, name)
        length, self._max_length_origin = self._read_max_length(max_length)
        self._tokenizer_file = TokenizerFile(model.tokenizer_file, model.tokenizer, manifest.source.name)
        schedulers = Schedulers(partial(Scheduler, backend, max_queue_tokens=max_queue_tokens, on_call=on_call))
        self._scorer = Scorer(model.tokenizer, backend, length, head.labels, schedulers)
        self._calls = Calls(meaning, name, backend.device)
        self._model_card_data = ModelCardData()
        # What a pickle holds.
        self._name = None if place == EMBEDDED_MODEL else lasting_name(name_or_folder)
        self._options: dict[str, Any] = {
            "max_length": max_length,
            "precision": precision,
            "device": None if asked is None else str(asked),
            "threads": threads,
            "relevant_label": relevant_label,
            "cache_folder": None if cache is None else cache.absolute(),
            "revision": revision,
            "local_files_only": local_files_only,
            "token": token if isinstance(token, bool) else None,
            "max_queue_tokens": max_queue_tokens,
            "on_call": on_call,
        }

    # Functions and no assignments, of which type checkers know the types without guessing.

    @_run_at_once(Calls.score)
    def score() -> None:
        """As `Calls.score`."""

    @_run_at_once(Calls.rank)
    def rank() -> None:
        """As `Calls.rank`."""

    @_run_at_once(Calls.predict)
    def predict() -> None:
        """As `Calls.predict`."""

    def encode(
        self, texts: Iterable[str], *, folder: str | Path | None = None, show_progress_bar: bool | None = None
    ) -> EncodedDocuments:
        """Tokenize documents ahead, for calls that get them in place of texts and give the same scores.

        Args:
            texts: The documents, any number. A generator's are not kept, so that they need not fit into memory.
            folder: Where to write the token ids, for more of them than memory holds; None keeps them in memory.
                An older folder of encoded documents is replaced.
            show_progress_bar: Draw progress on standard error, where the number of texts is known.

        Returns:
            The documents, for this model and every other one with the same tokenizer.

        Raises:
            InputError: If a text is no string, or the folder is something else or cannot be written.
        """
        place, texts = None if folder is None else folder_path("folder", folder), read_documents(texts)
        total, identity = len(texts) if isinstance(texts, Sized) else None, self._tokenizer_file.identity()
        shown = switch("show_progress_bar", show_progress_bar)
        progress = Progress(total or 0, "documents", show=total is not None and bool(shown))
        parts = encode_parts(self._scorer.tokenizer, texts, progress)
        if place is None:
            return EncodedDocuments(join_tokens(parts), identity)
        from ._text.encoded_folder import write_encoded  # few documents are written

        write_encoded(place, parts, identity)
        return EncodedDocuments.load(place)

    def warm_up(self) -> None:
        """Pay ahead what first calls would, before requests come; calls that come meanwhile wait.

        On a GPU, in seconds: CUDA graphs of small shapes are captured, while no other model should be busy there, and
        a largest batch takes its memory, or DeviceError says that there is too little. On a CPU every thread wakes, and
        what batches cost is measured in half a second, where it is not known yet.
        """
        self._scorer.scheduler.refuse_nested()
        self._model.backend.warm_up()
        self._run(self._calls.score_any("a", [f"b {i}" for i in range(4 * self._model.threads.count)]))

    def stats(self) -> Stats:
        """What was done until now, and what waits."""
        return self._scorer.scheduler.stats()

    def close(self, *, finish: bool = True) -> None:
        """Take no more calls, and return when none is left; calls after it raise `Closed`.

        Args:
            finish: Whether calls that wait are finished; False fails them with `Closed`. Of a call of several
                thousand documents the part that has not begun fails either way.
        """
        self._scorer.schedulers.close(finish=finish)

    def info(self) -> "ModelInfo":
        """What this model is and runs on."""
        from ._info import describe_model  # few programs ask

        return describe_model(self._model, self._calls.meaning, self._scorer.max_length, self._max_length_origin)

    def __reduce__(self) -> tuple[Any, ...]:
        options = self._options | {"activation_fn": self._calls.meaning.given}
        arguments = () if self._name is None else (self._name,)
        return load_again, (type(self), CrossEncoder, arguments, options), self.__getstate__()

    def _run(self, call: Call[T]) -> T:
        scheduler = self._scorer.schedulers[os.getpid()]
        scheduler.refuse_nested()
        with scheduler.meter.call(len(call.pairs.documents)) as account:
            return call.finish(self._begin(call, account).finish())

    def _begin(self, call: Call[Any], account: Account, on_end: Callable[[], object] | None = None) -> Run:
        pairs = call.pairs
        return Run(
            self._scorer,
            pairs.queries,
            partial(self._documents, pairs),
            pairs.query_index,
            max_pairs=call.batch_size,
            windows=call.windows,
            deadline=call.deadline,
            progress=Progress(len(pairs.documents), "documents", show=True) if call.show_progress_bar else None,
            account=account,
            on_end=on_end,
        )

    def _documents(self, pairs: PairInputs) -> Any:
        """A call's documents as its run takes them."""
        if not pairs.encoded:
            return pairs.documents
        return texts_or_tokens(pairs.documents, self._scorer.tokenizer, self._tokenizer_file.identity)
