"""A model's folder, held while files of it are opened, so that all of them are of one model.

An export puts a new folder in the place of an older one in one step. What read a manifest before that step and opened
a graph after it would run one model with the settings of another, and so would a forked child that opens its parent's
graph again. So a folder is opened once, and its files through it; and a file that is opened again later must still be
the same one.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from crossrank._errors import ArtifactError, CrossrankError
from crossrank._interrupts import not_thrown_in
from crossrank._printable import printable

from .manifest import MANIFEST_NAME, Manifest, hash_file, holds

# Linux opens files of a folder by the folder's handle. Elsewhere a folder has but its path, which is looked at twice.
_HANDLES = Path("/proc/self/fd")

# Device, inode, size, time and time of change of a file.
Stamp = tuple[int, ...]


class HeldFolder:
    """A folder as it is now, whatever takes its place meanwhile; see `hold`.

    Attributes:
        place: The folder's own path, for messages.
        path: A path into it that other folders do not get into the way of.
        through_handle: Whether that is so; else what was read may be of two folders unless `is_current` still holds.
    """

    def __init__(self, place: Path, descriptor: int | None) -> None:
        self.place = place
        handle = None if descriptor is None else _HANDLES / str(descriptor)
        self.through_handle = handle is not None and handle.is_dir()  # no /proc in some jails
        self.path = handle if handle is not None and self.through_handle else place
        self.is_open = True
        self._stamp = self._now(self.path)

    def is_current(self) -> bool:
        """Whether it still is the folder at its place, and was there all the time."""
        try:
            return self._now(self.place) == self._stamp
        except not_thrown_in(OSError):
            return False

    def named(self, error: CrossrankError) -> CrossrankError:
        """An error of what was opened here, that speaks of the folder's own path."""
        if self.path != self.place:
            error.args = tuple(str(argument).replace(str(self.path), printable(self.place)) for argument in error.args)
        return error

    @staticmethod
    def _now(folder: Path) -> Stamp:
        # The time too, which a move changes: it may be back by now, and onnxruntime does not like to see it elsewhere.
        # And the manifest: a folder that was removed may leave its number to the next one.
        found, manifest = folder.stat(), folder / MANIFEST_NAME
        return found.st_dev, found.st_ino, found.st_ctime_ns, *(stamp(manifest) if manifest.exists() else ())


@contextmanager
def hold(place: Path) -> Iterator[HeldFolder]:
    """Hold a folder.

    Raises:
        OSError: If there is none.
    """
    descriptor = os.open(place, os.O_PATH | os.O_DIRECTORY) if hasattr(os, "O_PATH") else None
    try:
        held = HeldFolder(place, descriptor)
        try:
            yield held
        finally:
            held.is_open = False
    finally:
        if descriptor is not None:
            os.close(descriptor)


class ModelFile:
    """A file of a model that is opened again later, as long as it is the same one.

    Args:
        path: Where it lies.
        held: Its folder or one above, held while the model is loaded; None for a file of nothing else.
        beside: What else must be the same: names of files in the same folder.
        manifest: Of an artifact. An export with more graphs puts a new folder in its place, with links to the files of
            the other ones: files whose content is that of this manifest are the same, whatever their times say.
    """

    def __init__(
        self,
        path: Path,
        *,
        held: HeldFolder | None = None,
        beside: Sequence[str] = (),
        manifest: Manifest | None = None,
    ) -> None:
        self.path = path
        self._held = held
        self._folder = path.parent if held is None else held.place
        parent = path.parent.relative_to(self._folder)
        self._names = [(parent / name).as_posix() for name in (path.name, *beside)]
        self._records = None if manifest is None else [manifest.files.get(name) for name in self._names]
        root = self._folder if held is None else held.path
        self._status = (root / self._names[0]).stat()
        self._stamps = self._stamped(root)

    @classmethod
    def of(cls, path: "Path | ModelFile") -> "ModelFile":
        """The file itself, or that of a path."""
        return path if isinstance(path, ModelFile) else ModelFile(path)

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.name

    def stat(self) -> os.stat_result:
        """Its size and times when the model was loaded."""
        return self._status

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """Where to open it now.

        Raises:
            ArtifactError: If another file has taken its place since the model was loaded.
        """
        if self._held is not None and self._held.is_open:
            yield self._held.path / self._names[0]
            self._check(self._held)
            return
        with ExitStack() as stack:
            try:
                held = stack.enter_context(hold(self._folder))
            except not_thrown_in(OSError) as error:
                raise self._gone(error) from error
            self._check(held)
            try:
                yield held.path / self._names[0]
            except CrossrankError as error:
                raise held.named(error) from error.__cause__
            self._check(held)

    def hash(self) -> str:
        """The sha256 of the file, and of what else must be the same.

        Raises:
            ArtifactError: As `opened`.
        """
        with self.opened() as path:
            root = path.parents[len(Path(self._names[0]).parts) - 1]
            return "+".join(hash_file(root / name) for name in self._names)

    def check(self) -> None:
        """Raise as `opened`."""
        with self.opened():
            pass

    def _check(self, held: HeldFolder) -> None:
        try:
            now = self._stamped(held.path)
            if now == self._stamps:
                return
            same = self._records is not None and all(
                record is not None and holds(held.path / name, record)
                for name, record in zip(self._names, self._records, strict=True)
            )
        except not_thrown_in(OSError) as error:
            raise self._gone(error) from error
        if not same:
            raise ArtifactError(f"{self.path} was replaced since the model was loaded; load the model again")
        self._stamps = now  # so that it is read once

    def _gone(self, error: OSError) -> ArtifactError:
        reason = error.strerror or error
        return ArtifactError(f"{self.path} is gone since the model was loaded ({reason}); load the model again")

    def _stamped(self, root: Path) -> list[Stamp]:
        return [stamp(root / name) for name in self._names]


def stamp(path: Path, *, follow: bool = True) -> Stamp:
    """What another file in the place of this one would not have, nor this one with another content.

    No program sets the time of change; a new link to the file, or a new owner, does change it. Of a link it is that of
    what it leads to, but with ``follow`` false.
    """
    found = path.stat(follow_symlinks=follow)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
