"""Rerankers that are no encoder with a classification head: refused by name, saying what runs them or ranks as well.

A checkpoint is known by its config.json. Which encoders can be exported is left to the exporters.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crossrank._artifact.settings import read_model_folder
from crossrank._errors import ModelError, UnsupportedModelError, join_problems
from crossrank._interrupts import not_thrown_in
from crossrank._json import has_entry, read_json_object

# transformers' model types of language models that read from left to right, whatever head they have.
_DECODERS = frozenset({
    *("bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox"),
    *("granite", "lfm2", "llama", "llama_bidirec", "minicpm", "mistral", "mixtral", "olmo", "olmo2", "opt"),
    *("phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm"),
})  # fmt: skip
_LISTWISE = ("JinaForRanking",)
_ENCODERS = (
    "Encoders that rank as well are exported: cross-encoder/ettin-reranker-150m-v1 and "
    "Alibaba-NLP/gte-reranker-modernbert-base for English, Alibaba-NLP/gte-multilingual-reranker-base and "
    "BAAI/bge-reranker-v2-m3 for many languages"
)
_ON_A_GPU = "On a GPU, sentence-transformers' CrossEncoder or vLLM runs it"


def refuse_other_kinds(folder: Path) -> None:
    """Refuse a causal, listwise or multimodal reranker, or one that generates, before its weights are looked at.

    Args:
        folder: A checkpoint, as far as it is there: config.json tells.

    Raises:
        UnsupportedModelError: If it is one, with whatever else its settings hold against it.
    """
    found = [named for config in _configs(folder) if (named := _kind(config)) is not None]
    if not found:
        return
    kind, advice = found[0]
    problems = [f"config.json: this is {kind}; supported are encoders with a classification head"]
    try:
        read_model_folder(folder)
    except not_thrown_in(ModelError) as error:
        problems.append(str(error))
    raise UnsupportedModelError(f"{join_problems(str(folder), problems)}\n{advice}. {_ENCODERS}.")


def _configs(folder: Path) -> Iterator[Mapping[str, Any]]:
    """A folder's config.json and that of a transformer below it; a damaged one is its reader's business."""
    for path in (folder / "config.json", *sorted(folder.glob("0_*/config.json"))):
        if has_entry(path):
            try:
                yield read_json_object(path)
            except not_thrown_in(OSError, ValueError):
                pass


def _kind(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a config.json is of and what to do with it, two phrases; None of an encoder, or where nothing says it."""
    stated, model_type = config.get("architectures"), config.get("model_type")
    classes = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    name = f"{', '.join(classes) or model_type!s:.60}"[:120]
    if any(isinstance(config.get(part), Mapping) for part in ("vision_config", "audio_config")) or any(
        "VL" in known for known in classes
    ):
        return (
            f"a multimodal reranker ({name}), whose documents may be pictures",
            f"{_ON_A_GPU}, or the code that its authors publish with it",
        )
    if any(known.startswith(_LISTWISE) for known in classes):
        return (
            f"a listwise reranker ({name}), which reads all documents of a query in one prompt",
            "On a GPU, vLLM runs it, or the code that its authors publish with it",
        )
    if any(known.endswith("ForConditionalGeneration") for known in classes):
        return f"an encoder-decoder ({name}), which scores a pair by the word that it writes", _ON_A_GPU
    if model_type in _DECODERS or any(known.endswith(("ForCausalLM", "LMHeadModel")) for known in classes):
        return f"a causal language model ({name}), which scores a pair by its last token behind a prompt", _ON_A_GPU
    return None
