"""The folder of new spectrograms: class folders, a manifest, resume, and nothing overwritten."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from dataset import DataContract, save_image
from errors import UserError
from ldm.file_format import FileFormat, contract_of_decibels
from spectrograms.listing import is_folder_name, natural_key
from training import files, pictures, processes
from training.checkpoint import digest
from training.folder_lock import FolderLock

MANIFEST = "metadata.jsonl"  # the name by which Hugging Face's imagefolder finds the columns beside the images
EARLIER_MANIFEST = "manifest.jsonl"
SHARES = ".metadata.*.jsonl"  # lines of what other processes than the first have drawn, until they are collected
SETTINGS = "sampling.json"
OVERVIEW = "overview.png"
OVERVIEW_COLUMNS = 8
FOLLOWS = "train_images"  # from the checkpoint, which is compared; older folders do not have it
# What settings were before there was a flag for them, where that is not off.
BEFORE_THE_FLAG = {
    "file_format": "native",
    "decibel_range": None,
    "guide_sha256": None,
    "conditions": "none",
    "kept_conditions": None,
}


class SampleFolder:
    """The output folder, this run's own until ``close``: which images stand there, and the manifest of them.

    Of several processes the first one holds it and writes the manifest; the others write lines of their own beside it,
    which ``collect`` brings together, or the next run, if this one is killed.

    Raises:
        UserError: another process draws there, or the folder holds images of other settings, or other things than
            samples.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.manifest = self.path / MANIFEST
        self._lines = self.manifest
        self._class_folders: list[Path] = []
        self._lock: FolderLock | None = None
        if processes.is_first():
            self._hold(settings)
        processes.wait()
        if not processes.is_first():
            self._lines = self.path / SHARES.replace("*", str(processes.rank()))
            self.done = self._listed()

    def _hold(self, settings: dict[str, Any]) -> None:
        known = self.path / SETTINGS
        others = [entry for entry in self.path.glob("*") if not entry.name.startswith(".")]
        if others and not known.exists():
            raise UserError(
                f"--output_dir {self.path}: is not empty and not a folder of samples; choose another folder"
            )
        self._lock = FolderLock(self.path)
        try:
            files.sweep(self.path, *(entry for entry in self.path.rglob("*") if entry.is_dir()))
            self._compare(settings, known)
            self._put_in_order()
        except BaseException:
            self.close()
            raise

    def _compare(self, settings: dict[str, Any], known: Path) -> None:
        if not known.exists():
            files.save_json(settings, known)
            return
        if not any(path.is_file() for path in self.path.glob("*/*")):  # stopped before its first image, say
            files.save_json(settings, known)
            return
        before = files.read_object(known, "choose another folder")
        before = {name: before.get(name, BEFORE_THE_FLAG.get(name, False)) for name in settings}
        changed = sorted(name for name in settings if before[name] != settings[name] and name != FOLLOWS)
        if changed:
            raise UserError(
                f"--output_dir {self.path}: holds images made with another {', '.join(changed)}; choose another folder"
            )

    def _put_in_order(self) -> None:
        """One manifest of the images that stand whole in the folder, from all lines that were written of them."""
        earlier = self.path / EARLIER_MANIFEST
        if earlier.is_file() and not self.manifest.exists():
            earlier.rename(self.manifest)
        shares = sorted(self.path.glob(SHARES))
        self.done = self._listed(*shares)
        if shares:
            self.done = {name: self.done[name] for name in sorted(self.done, key=natural_key)}
        if self.manifest.exists() or self.done:
            files.save_lines(self.done.values(), self.manifest)
        for share in shares:
            share.unlink()

    def _listed(self, *shares: Path) -> dict[str, dict[str, Any]]:
        """Images that stand in the folder and in the manifest, or in one of ``shares``; a torn last line is none."""
        lines = (entry for path in (self.manifest, *shares) for entry in files.read_lines(path, file_name=str))
        return {entry["file_name"]: _labelled(entry) for entry in lines if self._stands(entry["file_name"])}

    def make_class_folders(self, names: Sequence[str]) -> None:
        """Make a folder for every class.

        Raises:
            UserError: a name that no folder can have here, or two that are one to this disk.
        """
        made: dict[tuple[int, int], str] = {}
        self._class_folders = [self.path / name for name in names]
        for name in names:
            try:
                (self.path / name).mkdir(exist_ok=True)
                found = (self.path / name).stat()
            except (OSError, ValueError) as error:  # names that Windows keeps for itself, or that are too long
                raise UserError(f"class {name!r} cannot be the name of a folder in {self.path} ({error})") from error
            other = made.setdefault((found.st_dev, found.st_ino), name)
            if other != name:
                raise UserError(
                    f"--output_dir {self.path}: the classes {other} and {name} are one folder to this disk; draw them "
                    "with --classes into folders of their own"
                )

    def _stands(self, name: str) -> bool:
        path = PurePath(name)
        if path.is_absolute() or ".." in path.parts:  # no image of this folder, whatever is there
            return False
        try:
            return (self.path / path).is_file()
        except (OSError, ValueError):  # no name that a file can have
            return False

    def add(self, image: Any, entry: dict[str, Any]) -> None:
        """Write one image, then its line: an image without a line is drawn again, never trusted."""
        save_image(image, self.path / entry["file_name"])
        files.append_line(self._lines, entry)
        self.done[entry["file_name"]] = entry

    def collect(self) -> None:
        """Wait for the other processes, and bring together what all of them have drawn."""
        processes.wait()
        if processes.number() > 1 and processes.is_first():
            self._put_in_order()

    def close(self) -> None:
        """Let go of the folder; class folders that stayed empty, which other readers take for an error, go."""
        if self._lock is None:
            return
        for folder in self._class_folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._lock.release()


def _labelled(entry: dict[str, Any]) -> dict[str, Any]:
    """``entry`` with the column ``label``, which those of earlier folders have not."""
    return {**entry, "label": entry["class"]} if "class" in entry and "label" not in entry else entry


def relative_name(name: str, index: int, suffix: str) -> str:
    """Where image ``index`` of class ``name`` goes below the output folder, as a file that ends in ``suffix``.

    Raises:
        UserError: the name, which a checkpoint brings along, would lead out of that folder.
    """
    if not is_folder_name(name):
        raise UserError(f"class {name!r} of the checkpoint cannot be the name of a folder")
    return f"{name}/{name}_{index:05d}{suffix}"


def contract_to_read(path: Path, contract: DataContract) -> DataContract:
    """How to read the images of a folder: as ``contract`` says, unless they are samples in decibels.

    Raises:
        UserError: samples that cannot be read as a data set, see ``contract_of_decibels``.
    """
    known = path / SETTINGS
    if not known.is_file():
        return contract
    return contract_of_decibels(contract, files.read_object(known, "draw it again"), path)


def division_warning(path: Path, train: Sequence[str]) -> str | None:
    """Words on samples in a folder whose generator was trained on other images than ``train``, or None.

    Folders that were drawn without ``sample.py``, or by one of before, do not tell.
    """
    known = path / SETTINGS
    trained_on = files.read_object(known, "draw it again").get(FOLLOWS) if known.is_file() else None
    if trained_on is None or trained_on == digest(train):
        return None
    return (
        f"WARNING: --synthetic {path}: its generator was trained on other images than the training part here: another "
        "folder, or another division of this one, and then held-out images are among those that it learned; give the "
        "parts of its run with --splits"
    )


def overview(folder: SampleFolder, classes: list[str], form: FileFormat) -> Path | None:
    """Write a sheet of the first images of every class; returns its path, or None where no image stands."""
    rows = []
    for name in classes:
        paths = [folder.path / relative_name(name, index, form.suffix) for index in range(OVERVIEW_COLUMNS)]
        images = [form.preview(path) for path in paths if path.is_file()]
        if images:
            rows.append((name, images))
    if not rows:
        return None
    path = folder.path / OVERVIEW
    pictures.sheet(rows, path)
    return path
