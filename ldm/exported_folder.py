"""The folder that ``export.py`` writes: diffusers' files, a model card, and what it was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError

from errors import UserError
from ldm.pipeline import SpectrogramPipeline
from training import files

FACTS = "export.json"
CARD = "README.md"
FORMAT_VERSION = 1
MADE_FROM = ("checkpoint_sha256", "guide_sha256")


def check_place(folder: Path, digests: dict[str, str]) -> bool:
    """Whether ``folder`` already holds the export with ``digests``; False where there is nothing yet.

    Args:
        folder: of the export.
        digests: of the files it is made from, by their names in ``MADE_FROM``.

    Raises:
        UserError: it holds other things, the export of other files, or a card that somebody has edited since.
    """
    known = folder / FACTS
    if not known.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"--output_dir {folder}: is not empty and not an export; choose another folder")
        return False
    facts = files.read_object(known, "choose another folder")
    if any(facts.get(name) != digests.get(name) for name in MADE_FROM):
        raise UserError(
            f"--output_dir {folder}: holds the export of another checkpoint or guide; choose another folder"
        )
    card = folder / CARD
    if card.exists() and _digest(card.read_bytes()) != facts.get("card_sha256"):
        raise UserError(f"{card}: was edited since it was written; move it away, or choose another --output_dir")
    return True


def write_export(
    pipeline: SpectrogramPipeline, card: str, epoch: int, digests: dict[str, str], folder: Path, there: bool
) -> None:
    """Write ``folder`` whole or not at all; where it has to stay (``there``: it holds an export) file by file.

    Raises:
        UserError: the disk is full or the place not writable.
    """
    content = card.encode()

    def fill(new: Path) -> None:
        try:
            pipeline.save_pretrained(new, safe_serialization=True)
        except SafetensorError as error:  # what it makes of a disk's own error
            raise OSError(str(error)) from error
        (new / CARD).write_bytes(content)
        facts = {
            "format_version": FORMAT_VERSION,
            "epoch": epoch,
            **digests,
            "card_sha256": _digest(content),
        }
        files.save_json(facts, new / FACTS)

    files.write_folder(folder, fill, over=there)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
