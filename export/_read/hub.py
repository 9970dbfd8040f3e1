"""A model's files from the hub: which of them are wanted, and what to do when they cannot be had."""

import errno
import os
import time
from collections.abc import Sequence
from glob import escape
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from huggingface_hub import HfApi, constants, get_session, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from crossrank._artifact.manifest import MANIFEST_NAME
from crossrank._artifact.settings import SAFETENSORS, has_weights, module_folders
from crossrank._errors import ModelNotFoundError
from crossrank._interrupts import not_thrown_in
from crossrank.models import find_model, nearest_names

from .kinds import refuse_other_kinds
from .licence import CARD
from .source import HOLDS_GRAPHS, IS_ARTIFACT

# What describes a model, wherever its weights are.
SETTINGS = (
    *("config.json", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spm.model", "spiece.model"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),  # refused, not used
)
# What an export reads beside; nothing else is downloaded.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# Of folders without safetensors only: many hold the same weights in both forms.
_TORCH_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
# How long the hub may take to answer at all. The hub library asks five times, for half a minute and more.
_ANSWER_S = 4.0
_SAID_S = 10.0  # for so long what was found holds
_said: dict[str, tuple[float, str | None]] = {}  # when and what, of each hub
_CACHED = "models--{}"  # a model's folder in the hub's cache
_SHOWN = 3  # revisions or folders that a message names


def download_checkpoint(name: str, revision: str | None, *, local_files_only: bool, token: str | bool | None) -> Path:
    """The folder of a model in the hub's own cache, named by its commit; what is not there yet is downloaded.

    The hub library's settings hold: ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, the token of a log-in.

    Args:
        name: Hub id.
        revision: Branch, tag or commit, or None for the newest.
        local_files_only: Never ask the hub.
        token: Hub token, True for the one of the log-in.

    Raises:
        ModelNotFoundError: If the hub does not have it, does not give it or does not answer within seconds, or if it
            must not be asked, or there is no space left; or if it needs no export.
        UnsupportedModelError: As `refuse_other_kinds`, and as `module_folders`.
        CheckpointError: If its modules.json is damaged.
    """
    offline = local_files_only or constants.HF_HUB_OFFLINE
    settings = download(name, revision, SETTINGS, offline=offline, token=token)
    refuse_other_kinds(settings)  # gigabytes before they come
    inner, *behind = module_folders(settings)
    wanted = [CARD, *within(settings, inner, (*SETTINGS, *_ADAPTER, *_WEIGHTS))]
    wanted += [file for module in behind for file in within(settings, module, ("config.json", *_WEIGHTS))]
    folder = download(name, settings.name, wanted, offline=offline, token=token)
    bare = [place for place in (inner, *behind) if not has_weights(place, [SAFETENSORS])]
    if bare:  # a Pooling always is
        wanted = [file for place in bare for file in within(settings, place, _TORCH_WEIGHTS)]
        download(name, folder.name, wanted, offline=offline, token=token)
        if not any(map(has_weights, (inner, *behind))):
            _refuse_ready(name, folder, offline=offline, token=token)
    return folder


def within(root: Path, folder: Path, patterns: Sequence[str]) -> list[str]:
    """Patterns of files in a folder of a model, as `download` takes them."""
    place = folder.relative_to(root).as_posix()
    return [pattern if place == "." else f"{escape(place)}/{pattern}" for pattern in patterns]


def _refuse_ready(name: str, folder: Path, *, offline: bool, token: str | bool | None) -> None:
    """Refuse a repository without weights that needs no export; what else it may be, reading it says."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    if not offline and silence(name) is None:
        try:
            files = HfApi(token=token).list_repo_files(name, revision=folder.name)
        except not_thrown_in(Exception):  # as above; what there is of it is here
            pass
    kind = IS_ARTIFACT if MANIFEST_NAME in files else HOLDS_GRAPHS
    if kind == IS_ARTIFACT or any(file.endswith(".onnx") for file in files):
        raise ModelNotFoundError(f"{name} {kind}: CrossEncoder({name!r}) and crossrank -m {name} take it as it is")


def download(
    name: str, revision: str | None, patterns: Sequence[str], *, offline: bool = False, token: str | bool | None
) -> Path:
    """The folder of a model in the hub's cache, with the files of these patterns.

    Raises:
        ModelNotFoundError: As `download_checkpoint`.
    """
    quiet = None if offline else silence(name)
    # sentence-transformers puts the transformer of a model of several modules into such a subfolder.
    patterns = [*patterns, *(f"0_*/{pattern}" for pattern in patterns)]
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, local_files_only=offline or bool(quiet), token=token
            )
        )
    except not_thrown_in(Exception) as error:  # network, HTTP, cache and disk errors share no base
        at = f" at revision {revision}" if revision else ""
        absent = isinstance(error, LocalEntryNotFoundError)
        if absent and (offline or quiet):
            reason, advice = _explain_absence(name, revision, quiet, partly=hasattr(error, "snapshot_path"))
        else:
            reason, advice = _explain(error, name)
        start = f"{name}{at} could not be had from the hub"
        seen = (Path(constants.HF_HUB_CACHE) / _CACHED.format(name.replace("/", "--"))).is_dir()
        if isinstance(error, RepositoryNotFoundError) or (absent and not seen):  # it may not be a hub id at all
            start, advice = _as_folder(name, start, advice)
        raise ModelNotFoundError(f"{start} ({reason}). {advice}") from error


def silence(name: str) -> str | None:
    """Why the hub does not answer, or None if it does, whatever it says.

    Asked on a thread of its own, since looking up an address knows no time limit; what it says holds for a while, since
    a download takes several steps.
    """
    when, said = _said.get(constants.ENDPOINT, (-inf, None))
    if time.monotonic() - when > _SAID_S:
        said = _ask(name)
        _said[constants.ENDPOINT] = time.monotonic(), said
    return said


def _ask(name: str) -> str | None:
    limit_s = _ANSWER_S
    if constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT:  # somebody set it
        limit_s = float(constants.HF_HUB_ETAG_TIMEOUT)
    answers: SimpleQueue[str | None] = SimpleQueue()

    def ask() -> None:
        try:
            get_session().head(f"{constants.ENDPOINT}/api/models/{name}", timeout=limit_s)
            answers.put(None)
        except Exception as error:  # of whichever HTTP library this version of the hub library has
            answers.put(" ".join(f"{type(error).__name__}: {error}".split()))

    Thread(target=ask, name="crossrank-hub", daemon=True).start()
    try:
        return answers.get(timeout=limit_s)
    except Empty:
        return f"none came within {limit_s:g} s; HF_HUB_ETAG_TIMEOUT sets how many"


def _explain_absence(name: str, revision: str | None, silence: str | None, *, partly: bool) -> tuple[str, str]:
    """The same for what is not in the hub's cache when the hub cannot be asked."""
    cache, others = constants.HF_HUB_CACHE, _cached_revisions(name, revision)
    found = "only a part of it is" if partly else "it is not"
    if others:
        found = f"{found} at this revision" if partly else "at this revision it is not"
        found = f"{found} in its cache {cache}, which has it at {', '.join(others)}"
        first = others[0].partition(" ")[0]
        advice = f'Take that: revision="{first}" (in a shell --revision {first}); or '
    else:
        found, advice = f"{found} in its cache {cache}", ""
    if silence is None:
        return f"offline: {found}", advice + (
            "allow downloads" if advice else "Allow downloads, or pass a checkpoint folder"
        )
    advice += "check the connection" if advice else "Check the connection, or pass a checkpoint folder"
    return f"no answer from {constants.ENDPOINT}: {silence}; {found}", advice


def _cached_revisions(name: str, revision: str | None) -> list[str]:
    """Revisions of a model that the hub's cache has, branches with their commits before other commits."""
    root = Path(constants.HF_HUB_CACHE) / _CACHED.format(name.replace("/", "--"))
    try:
        commits = {path.name for path in (root / "snapshots").iterdir() if any(path.glob("**/config.json"))}
        refs = {
            path.relative_to(root / "refs").as_posix(): path.read_text(encoding="utf-8").strip()
            for path in sorted((root / "refs").rglob("*"))
            if path.is_file()
        }
    except not_thrown_in(OSError, ValueError):
        return []
    commits.discard(refs.get(revision or "main", revision or ""))
    named = [f"{ref} ({commit})" for ref, commit in refs.items() if commit in commits]
    bare = sorted(commits - set(refs.values()))
    return [*named, *bare][:_SHOWN]


def _as_folder(name: str, start: str, advice: str) -> tuple[str, str]:
    """The beginning and the end of a message about what may be a missing folder and no hub id."""
    if find_model(name):
        return start, advice
    parent = Path(name).parent
    try:
        beside = sorted(path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except not_thrown_in(OSError):
        return start, f"{advice}; if a folder is meant: there is no {os.path.abspath(name)}"
    held = f"{parent} holds {', '.join(beside[:_SHOWN])}{', ...' if len(beside) > _SHOWN else ''}" if beside else ""
    missing = f"there is no folder {os.path.abspath(name)}{f' ({held})' if held else ''}"
    return f"{missing}, and as a hub id {start}", advice


def _explain(error: Exception, name: str) -> tuple[str, str]:
    """What went wrong and what to do, a phrase and a sentence."""
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    unreachable = isinstance(error, LocalEntryNotFoundError)
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
