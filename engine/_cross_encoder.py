"""`CrossEncoder`: pairs of texts in, scores or a ranking out."""

from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any, Literal, TypeVar

from ._activation import Activation, resolve_activation
from ._blocking import BlockingCalls
from ._calls import Call, Calls
from ._encoded import EncodedDocuments, encode_parts, join_tokens, texts_or_tokens
from ._encoded_folder import write_encoded
from ._errors import InputError
from ._info import ModelInfo
from ._inputs import check_documents
from ._locate import EMBEDDED_MODEL, locate_model
from ._open import open_model
from ._printable import printable_line
from ._progress import Progress
from ._relevance import read_meaning
from ._runtime import ort, require_runtime
from ._scheduler import Scheduler
from ._scoring import PairWork, Scorer
from ._session import check_device, check_precision, parse_device
from ._stats import Account, OnCall, Stats
from ._threads import resolve_threads
from ._tokenizer_identity import TokenizerFile

T = TypeVar("T")


class CrossEncoder(BlockingCalls):
    """A cross-encoder on the fastest graph for the device at hand.

    Threads may share one object: on a CPU their calls join into batches, and a small one passes larger ones. After a
    fork, a child gets its own session at its first call.

    Args:
        name_or_folder: By default crossrank-mini-en, the model that comes with crossrank (English, int8, CPU). Or
            an artifact folder; a checkpoint folder or a hub name, of which the graph for this precision and device is
            exported once into the cache (needs ``crossrank[export]`` then); a folder of config.json, tokenizer.json
            and ONNX files without weights, or one ONNX file in such a folder, which are used as they are.
        max_length: Most tokens of a joined pair; the model's own limit holds where it is smaller.
        precision: "fp32", "fp16", "int8", or "auto": fp32 on a CPU (int8 where the model has nothing else), fp16 on
            CUDA.
        device: "cpu", "cuda", "cuda:1", "tensorrt", "tensorrt:1", or None for CUDA where it really runs, else the CPU.
        threads: CPU threads, or None for as many as this process may use.
        activation_fn: What turns logits into scores, or None for the model's own: a function
            float32 [pairs, labels] -> the same shape, a name such as "sigmoid", or a torch module.
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
        device: str | None = None,
        threads: int | None = None,
        activation_fn: Activation | None = None,
        relevant_label: int | None = None,
        cache_folder: str | Path | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        max_queue_tokens: int | None = None,
        on_call: OnCall | None = None,
    ) -> None:
        # What can be refused is refused before a model is downloaded or exported.
        require_runtime()
        thread_count = resolve_threads(threads)
        check_precision(precision)
        counts = isinstance(max_queue_tokens, int) and not isinstance(max_queue_tokens, bool) and max_queue_tokens > 0
        if max_queue_tokens is not None and not counts:
            raise InputError(f"max_queue_tokens={max_queue_tokens!r}: a positive integer, or None for no bound")
        asked = None if device is None else parse_device(device)
        if asked is not None:
            check_device(asked)
        given = None if activation_fn is None else resolve_activation(activation_fn)
        cache = None if cache_folder is None else Path(cache_folder)
        place = locate_model(
            name_or_folder,
            cache_folder=cache,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            precision=precision,
            device=asked,
        )
        model = open_model(place, asked, precision, thread_count)
        self._folder, self._manifest, self._variant = model.folder, model.manifest, model.variant
        head, inputs = self._manifest.head, self._manifest.inputs
        head = head if relevant_label is None else head.with_relevant(relevant_label)
        self._meaning = read_meaning(head, given, str(activation_fn))
        length, self._max_length_origin = inputs.max_length, inputs.max_length_origin
        if max_length is not None and model.tokenizer.check_max_length(max_length) < inputs.max_length:
            length, self._max_length_origin = max_length, "as asked"
        self._tokenizer_file = TokenizerFile(model.tokenizer_file, model.tokenizer, self._manifest.source.name)
        scheduler = Scheduler(model.runner, max_queue_tokens=max_queue_tokens, on_call=on_call)
        self._scheduler = scheduler
        self._scorer = Scorer(model.tokenizer, model.runner, length, head.labels, scheduler)
        self._calls = Calls(self._meaning, printable_line(self._manifest.source.name))
        model.runner.learn_costs(model.tokenizer, length, cache)

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
        check_documents(texts)
        total, identity = len(texts) if isinstance(texts, Sized) else None, self._tokenizer_file.identity()
        progress = Progress(total or 0, "documents", show=total is not None and bool(show_progress_bar))
        parts = encode_parts(self._scorer.tokenizer, texts, progress)
        if folder is None:
            return EncodedDocuments(join_tokens(parts), identity)
        write_encoded(Path(folder), parts, identity)
        return EncodedDocuments.load(folder)

    def warm_up(self) -> None:
        """Pay ahead what first calls would, before requests come; calls that come meanwhile wait.

        On a GPU, in seconds: CUDA graphs of small shapes are captured, while no other model should be busy there, and
        a largest batch takes its memory, or DeviceError says that there is too little. On a CPU every thread wakes, and
        what batches cost is measured in half a second, where it is not known yet.
        """
        self._scorer.runner.warm_up()
        self._run(self._calls.score_any("a", [f"b {i}" for i in range(4 * self._scorer.runner.threads.count)]))

    def stats(self) -> Stats:
        """What was done until now, and what waits."""
        return self._scheduler.stats()

    def close(self, *, finish: bool = True) -> None:
        """Take no more calls, and return when none is left; calls after it raise `Closed`.

        Args:
            finish: Whether calls that wait are finished; False fails them with `Closed`. Of a call of several
                thousand documents the part that has not begun fails either way.
        """
        self._scheduler.close(finish=finish)

    def info(self) -> ModelInfo:
        """What this model is and runs on."""
        source, head, scorer = self._manifest.source, self._meaning.head, self._scorer
        return ModelInfo(
            source=source.name if source.revision is None else f"{source.name} at {source.revision}",
            folder=self._folder,
            architecture=source.architecture,
            device=str(scorer.runner.session.device),
            provider=scorer.runner.session.provider,
            onnxruntime=ort.__version__,
            variant=self._variant.variant,
            precision=self._variant.precision,
            file=self._variant.file,
            exporter=self._manifest.exporter,
            threads=scorer.runner.threads.count,
            threads_reason=scorer.runner.threads.reason,
            batch_tokens=scorer.runner.max_tokens[0],
            batch_tokens_origin=scorer.runner.max_tokens[1],
            labels=head.labels,
            relevant_label=head.relevant_label,
            activation=self._meaning.name,
            activation_origin=self._meaning.origin,
            max_length=scorer.max_length,
            max_length_origin=self._max_length_origin,
            tokenizer=f"{scorer.tokenizer.kind}, {scorer.tokenizer.vocabulary_size:,} tokens",
            parity=self._variant.parity,
        )

    def _run(self, call: Call[T]) -> T:
        with self._scheduler.desk.meter.call(len(call.pairs.documents)) as account:
            work = self._work(call, account)
            self._scorer.run(work, call.batch_size)
            return call.finish(work.finish())

    def _work(self, call: Call[Any], account: Account) -> PairWork:
        """What a call wants computed."""
        pairs, scorer = call.pairs, self._scorer
        return PairWork(
            scorer,
            pairs.queries,
            lambda: texts_or_tokens(pairs.documents, scorer.tokenizer, self._tokenizer_file.identity),
            pairs.query_index,
            windows=call.windows,
            deadline=call.deadline,
            progress=Progress(len(pairs.documents), "documents", show=True) if call.show_progress_bar else None,
            account=account,
        )
