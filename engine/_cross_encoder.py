"""`CrossEncoder`: pairs of texts in, scores or a ranking out."""

from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ._activation import Activation, apply_activation, resolve_activation, softmax
from ._encoded import EncodedDocument, EncodedDocuments, encode_parts, join_tokens, texts_or_tokens
from ._encoded_folder import write_encoded
from ._errors import InputError
from ._info import ModelInfo
from ._inputs import PairInputs, check_documents, either, one_query, split_pairs
from ._locate import EMBEDDED_MODEL, locate_model
from ._model_folder import transformer_folder
from ._open import open_model
from ._outputs import RankedDocument, check_top_k, kept_texts, rank_scores, to_tensor
from ._progress import Progress
from ._relevance import choose_activation, read_meaning
from ._runtime import ort
from ._scoring import Scorer, check_max_length
from ._session import check_device, check_precision, parse_device
from ._threads import resolve_threads
from ._tokenizer_identity import TokenizerFile

Floats = NDArray[np.float32]


class CrossEncoder:
    """A cross-encoder on the fastest graph for the device at hand.

    Threads may share one object. After a fork, a child gets its own session at its first call.

    Args:
        name_or_folder: By default crossrank-mini-en, the model that comes with crossrank (English, int8, CPU). Or
            an artifact folder; a checkpoint folder or a hub name, which is exported once into the cache (needs
            ``crossrank[export]`` the first time); a folder of config.json, tokenizer.json and ONNX files without
            weights, or one ONNX file in such a folder, which are used as they are.
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

    Raises:
        ModelNotFoundError: If there is no such model.
        ModelError: If the model cannot be used: damaged, unsupported, or not proven exact.
        DeviceError: If the device that was asked for cannot run.
        InputError: If an option is not what it can be.
        MissingDependencyError: If the model must be exported and ``crossrank[export]`` is absent.
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
    ) -> None:
        # What can be refused is refused before a model is downloaded or exported.
        thread_count = resolve_threads(threads)
        check_precision(precision)
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
        )
        model = open_model(place, asked, precision, thread_count)
        self._folder, self._manifest, self._variant = model.folder, model.manifest, model.variant
        head, inputs = self._manifest.head, self._manifest.inputs
        head = head if relevant_label is None else head.with_relevant(relevant_label)
        self._meaning = read_meaning(head, given, str(activation_fn))
        length, self._max_length_origin = inputs.max_length, inputs.max_length_origin
        if max_length is not None and check_max_length(max_length, model.tokenizer) < inputs.max_length:
            length, self._max_length_origin = max_length, "as asked"
        tokenizer_file = transformer_folder(model.folder) / "tokenizer.json"
        self._tokenizer_file = TokenizerFile(tokenizer_file, model.tokenizer, self._manifest.source.name)
        self._scorer = Scorer(model.tokenizer, model.runner, length, head.labels)
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
        a largest batch takes its memory, or DeviceError says that there is too little. On a CPU: every thread wakes.
        """
        self._scorer.runner.warm_up()
        self._logits(one_query("a", ["b"] * 4 * self._scorer.runner.threads.count))

    def score(self, query: str, documents: Iterable[str | EncodedDocument]) -> Floats:
        """Relevance scores of documents for a query: the lean call, and what `rank` sorts by.

        Args:
            query: The query.
            documents: The documents, any number: texts, or what `encode` made of them, whole or in part.

        Returns:
            float32 [documents], with the activation applied; of a relevance model with two labels the
            softmax probability of the relevant one.

        Raises:
            InputError: If a text is no string, documents were encoded with another tokenizer, or the model has
                several labels and none means "relevant".
        """
        self._meaning.require_relevance("score", self._manifest.source.name)
        return self._meaning.relevance(self._logits(one_query(query, documents)), self._meaning.of_relevance)

    def rank(
        self,
        query: str,
        documents: Iterable[str | EncodedDocument],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        activation_fct: Activation | None = None,
    ) -> list[RankedDocument]:
        """Documents by falling score; ties keep the input's order.

        Args:
            query: The query.
            documents: The documents, as in `score`.
            top_k: How many to return, or None for all.
            return_documents: Whether entries hold the document's text; not of encoded documents.
            batch_size: Most pairs of a batch, or None for the planner's own batches.
            show_progress_bar: Draw progress on standard error.
            activation_fn: In place of the model's own.
            activation_fct: Older name of ``activation_fn``.

        Returns:
            ``{"corpus_id": index, "score": float}``, and ``"text"`` if asked for.

        Raises:
            InputError: If a text is no string, an option is out of range, or the model has several
                labels and none means "relevant" (use `predict`).
        """
        self._meaning.require_relevance("rank", self._manifest.source.name)
        check_top_k(top_k)
        pairs = one_query(query, documents)
        texts = kept_texts(pairs.documents) if return_documents else None
        activation = choose_activation(activation_fn, activation_fct, self._meaning.of_relevance)
        scores = self._meaning.relevance(self._logits(pairs, batch_size, show_progress_bar), activation)
        return rank_scores(scores, top_k, texts)

    @overload
    def predict(
        self,
        inputs: Sequence[Any] | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: Literal[True] = True,
        convert_to_tensor: Literal[False] = False,
        sentences: Sequence[Any] | None = None,
        activation_fct: Activation | None = None,
    ) -> Floats: ...

    @overload
    def predict(
        self,
        inputs: Sequence[Any] | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        sentences: Sequence[Any] | None = None,
        activation_fct: Activation | None = None,
    ) -> Any: ...

    def predict(
        self,
        inputs: Sequence[Any] | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        sentences: Sequence[Any] | None = None,
        activation_fct: Activation | None = None,
    ) -> Any:
        """Scores of pairs, as sentence-transformers' ``CrossEncoder.predict``.

        Args:
            inputs: A list of pairs (tuples or lists of two strings, or a numpy array of them), or one pair. A
                document may also be one of those that `encode` gives.
            batch_size: Most pairs of a batch, or None for the planner's own batches.
            show_progress_bar: Draw progress on standard error.
            activation_fn: In place of the model's own.
            apply_softmax: Softmax over the labels, for models with several.
            convert_to_numpy: An array; False gives a list of its entries.
            convert_to_tensor: A torch tensor (needs torch); wins over ``convert_to_numpy``.
            sentences: Older name of ``inputs``.
            activation_fct: Older name of ``activation_fn``.

        Returns:
            float32 [pairs], or [pairs, labels] for a model with several labels; of one pair its entry.

        Raises:
            InputError: If something is no pair of strings, or an option is out of range.
            MissingDependencyError: If ``convert_to_tensor`` and torch is not installed.
        """
        given = either("inputs", inputs, "sentences", sentences)
        if given is None:
            raise InputError("predict needs inputs: a pair (query, document) or a list of pairs")
        pairs = split_pairs(given)
        activation = choose_activation(activation_fn, activation_fct, self._meaning.activation)
        scores = apply_activation(activation, self._logits(pairs, batch_size, show_progress_bar))
        if self._meaning.head.labels == 1:
            scores = scores.reshape(-1)
        elif apply_softmax:
            scores = softmax(scores)
        result = scores[0] if pairs.single else scores
        if convert_to_tensor:
            return to_tensor(result)
        return result if convert_to_numpy or pairs.single else list(result)

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

    def _logits(self, pairs: PairInputs, batch_size: int | None = None, show: bool | None = False) -> Floats:
        scorer, progress = self._scorer, Progress(len(pairs.documents), "documents", show=bool(show))
        documents = texts_or_tokens(pairs.documents, scorer.tokenizer, self._tokenizer_file.identity)
        return scorer.logits(pairs.queries, documents, pairs.query_index, max_pairs=batch_size, progress=progress)
