"""A model's files from the hub: which of them are wanted, and what to do when they cannot be had."""

import errno
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from crossrank._errors import ModelNotFoundError
from crossrank.models import find_model, nearest_names

# What an export reads; nothing else is downloaded.
_FILES = (
    *("config.json", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spm.model", "spiece.model"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),  # refused, not used
    *("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"),
    *("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
)
# Of repositories without safetensors only: many hold the same weights in both forms.
_TORCH_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")


def download_checkpoint(name: str, revision: str | None, *, local_files_only: bool, token: str | bool | None) -> Path:
    """The folder of a model in the hub's own cache, named by its commit; what is not there yet is downloaded.

    The hub library's settings hold: ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, the token of a log-in.

    Args:
        name: Hub id.
        revision: Branch, tag or commit, or None for the newest.
        local_files_only: Never ask the hub.
        token: Hub token, True for the one of the log-in.

    Raises:
        ModelNotFoundError: If the hub does not have it, does not give it or does not answer, or if it must not
            be asked, or there is no space left.
    """

    def download(revision: str | None, names: tuple[str, ...]) -> Path:
        # sentence-transformers puts the transformer of a model of several modules into such a subfolder.
        patterns = [*names, *(f"0_*/{file}" for file in names)]
        folder = snapshot_download(
            name, revision=revision, allow_patterns=patterns, local_files_only=local_files_only, token=token
        )
        return Path(folder)

    try:
        folder = download(revision, _FILES)
        if not any(folder.rglob("model*.safetensors")):
            download(folder.name, _TORCH_WEIGHTS)
        return folder
    except Exception as error:  # network, HTTP, cache and disk errors share no base
        at = f" at revision {revision}" if revision else ""
        reason, advice = _explain(error, name, local_files_only or constants.HF_HUB_OFFLINE)
        raise ModelNotFoundError(f"{name}{at} could not be had from the hub ({reason}). {advice}") from error


def _explain(error: Exception, name: str, offline: bool) -> tuple[str, str]:
    """What went wrong and what to do, a phrase and a sentence."""
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    unreachable = isinstance(error, LocalEntryNotFoundError)
    if unreachable and offline:
        found = "only a part of it is" if hasattr(error, "snapshot_path") else "it is not"
        return f"offline: {found} in its cache {cache}", "Allow downloads, or pass a checkpoint folder"
    cause = error.__cause__ if unreachable and error.__cause__ is not None else error
    if isinstance(cause, GatedRepoError):  # before its base, RepositoryNotFoundError
        return "it is gated", f"Ask for access at {hub}/{name}, then log in with hf auth login, or set HF_TOKEN"
    if isinstance(cause, RepositoryNotFoundError):
        near = "" if find_model(name) else ", ".join(nearest_names(name))
        check = f"Check the name (nearest registered: {near})" if near else "Check the name"
        return "no such repository, or a private one", f"{check}, or log in with hf auth login, or set HF_TOKEN"
    if isinstance(cause, RevisionNotFoundError):
        return "no such revision", f"{hub}/{name}/commits/main lists them; main is the newest"
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in (401, 403):
        return f"access refused, HTTP {status}", "Log in anew with hf auth login, or set another HF_TOKEN"
    if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(cause):
        return f"no space left in {cache}", "Free some, or set HF_HOME to a folder on another disk"
    details = " ".join(f"{type(cause).__name__}: {cause}".split())
    if unreachable:
        return f"no answer from {hub}: {details}", "Check the connection, or pass a checkpoint folder"
    return details, "Pass a checkpoint folder instead"
