"""`TritonPythonModel`: queries with their documents in, scores and ranks out."""

import json
import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from crossrank import CrossEncoder, CrossrankError, InputError


class TritonPythonModel:
    """A model of Triton's Python backend: one session of crossrank for each instance.

    A request has one ``query`` and its ``documents``; the answer has ``scores`` in their order and ``ranks``, 1 the
    best. Tokenizing, batches and threads are crossrank's, so Triton's own batcher stays off. A request that cannot be
    answered gets an error of its own, and the others their answers.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the artifact that lies beside the model's file.

        Args:
            args: Triton's: the configuration as JSON, the repository's path, the version, the kind of instance.

        Raises:
            CrossrankError: If it cannot be loaded: Triton says so, and does not serve it.
        """
        self._triton = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        given = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        on_gpu = args["model_instance_kind"] == "GPU"
        threads = given.get("threads", "")
        self._model = CrossEncoder(
            Path(args["model_repository"], args["model_version"], "artifact"),
            device=f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu",
            threads=int(threads) if threads else None,
            precision=given.get("precision", "auto"),
        )
        self._model.warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """An answer for each request, scores or an error."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Close the model."""
        self._model.close()

    def _answer(self, request: Any) -> Any:
        triton = self._triton
        try:
            query = self._texts(request, "query")
            documents = self._texts(request, "documents")
            if len(query) != 1:
                raise InputError(f"{len(query)} queries: one is needed, with its documents")
            ranking = self._model.rank(query[0], documents)
        except CrossrankError as error:
            return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(error)))
        scores = np.full(len(documents), math.nan, np.float32)
        ranks = np.zeros(len(documents), np.int32)
        for rank, entry in enumerate(ranking, 1):
            scores[entry["corpus_id"]], ranks[entry["corpus_id"]] = entry["score"], rank
        return triton.InferenceResponse(output_tensors=[triton.Tensor("scores", scores), triton.Tensor("ranks", ranks)])

    def _texts(self, request: Any, name: str) -> list[str]:
        """The texts of an input, which come as bytes."""
        values = self._triton.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)
        try:
            return [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: no UTF-8: {error}") from error
