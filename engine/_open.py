"""From a model's place to a loaded graph and all that is known of it."""

from dataclasses import dataclass, replace
from pathlib import Path

from ._errors import ArtifactError, InputError
from ._foreign import ForeignModel, read_foreign, settings_folder
from ._manifest import MANIFEST_NAME, Manifest, Variant, read_manifest
from ._runner import Runner, open_runner
from ._session import Device, Session, choose_variant
from ._threads import ThreadCount
from ._tokenize import PairTokenizer


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that is ready to score.

    Attributes:
        folder: The artifact, or the folder with a foreign graph's settings.
        manifest: What is known of it; of a foreign graph what an artifact's manifest would say.
        tokenizer: The model's tokenizer.
        variant: The graph that was chosen.
        runner: That graph, loaded.
    """

    folder: Path
    manifest: Manifest
    tokenizer: PairTokenizer
    variant: Variant
    runner: Runner


def open_model(place: Path, asked: Device | None, precision: str, threads: ThreadCount) -> OpenModel:
    """Open an artifact, a folder with foreign graphs, or one ONNX file of either.

    Args:
        place: Where `locate_model` found the model.
        asked: Where to run, or None for CUDA where it really runs, else the CPU.
        precision: "auto" or one of `PRECISIONS`.
        threads: Threads on a CPU.

    Raises:
        ModelNotFoundError: If there are no settings for an ONNX file.
        ModelError: If the model is damaged or unsupported, or has no graph for the device and precision.
        InputError: If a file was named that is not of the precision asked for.
        DeviceError: If the device cannot run here.
    """
    # Absolute, since a forked child that changed its folder opens it again. The last link of a file stays: in the
    # hub's cache it leads to a folder of nameless files.
    file = None if place.is_dir() else place.parent.resolve() / place.name
    folder = place.resolve() if file is None else settings_folder(file)
    model = _read_artifact(folder, file) or read_foreign(folder, file)
    if isinstance(model, ForeignModel):
        tokenizer = model.tokenizer
    else:
        tokenizer = PairTokenizer(folder / "tokenizer.json", rows=model.inputs.embeddings)

    def choose(device: Device) -> Variant:
        if file is None:
            refused = model.refused if isinstance(model, Manifest) else ()
            return choose_variant(model.variants, device, precision, refused)
        (named,) = model.variants  # whatever the device would like best
        if precision not in ("auto", named.precision):
            raise InputError(f"precision={precision!r}: {named.file} is {named.precision} by its name")
        return named

    variant, runner = open_runner(folder, model.inputs, choose, asked, threads)
    session = runner.session
    if isinstance(model, ForeignModel):
        assert isinstance(session, Session), "only an artifact's graph is packed"
        return OpenModel(folder, model.manifest(session), tokenizer, variant, runner)
    if session.labels not in (None, model.head.labels):
        raise ArtifactError(
            f"{session.path} gives {session.labels} labels, the manifest says {model.head.labels}: export it again"
        )
    return OpenModel(folder, model, tokenizer, variant, runner)


def _read_artifact(folder: Path, file: Path | None) -> Manifest | None:
    """An artifact's manifest, with the named file's graph alone if one was named; None if it is no artifact's."""
    if not (folder / MANIFEST_NAME).exists():
        return None
    manifest = read_manifest(folder)
    if file is None:
        return manifest
    named = tuple(variant for variant in manifest.variants if folder / variant.file == file)
    return replace(manifest, variants=named) if named else None
