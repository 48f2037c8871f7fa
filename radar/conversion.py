"""A data set of spectrograms from recordings, with radar.json and groups.csv; continues where it was stopped."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import UserError
from radar.export import check_folder, claim_folder, write_map, write_text
from radar.metadata import FILE_NAME as RADAR_FILE
from radar.metadata import RadarMetadata
from radar.recordings import Layout, Recording, read_recording
from radar.segments import Segmenter, SegmentSettings
from radar.sources import Source

SETTINGS_FILE = "conversion.json"
RECORDINGS_FILE = "recordings.csv"
GROUPS_FILE = "groups.csv"
RECORDING_COLUMNS = ("class", "name", "source", "sha256", "seconds", "images")
CONVERTER_VERSION = 1  # raised when the same settings give other images
STATIC_DB = 20.0  # static echo over all else from which it is worth a word
SAME_RATE = 1e-6

Row = dict[str, str]


@dataclass(frozen=True)
class ConversionSettings:
    """Everything that the images depend on beside the recordings.

    Attributes:
        prf_hz: slow-time rate in Hz, or None where every file says its own (the same).
        carrier_hz: carrier frequency in Hz, for the velocity axis; None where unknown.
        file_format: ``"png"``, or ``"npy"`` for the float32 map in [0, 1].
        variable, dtype, layout: see ``radar.recordings.read_recording``.
    """

    segments: SegmentSettings
    prf_hz: float | None = None
    carrier_hz: float | None = None
    colormap: str = "grey"
    file_format: str = "png"
    variable: str | None = None
    dtype: str | None = None
    layout: Layout = field(default_factory=Layout)

    def record(self) -> dict:
        """The settings as JSON types, as ``conversion.json`` keeps them; the PRF is in ``radar.json``."""
        values = asdict(self)
        del values["prf_hz"]
        nested = values.pop("segments") | values.pop("layout")
        # Through JSON and back, so that tuples compare equal to what the file gives as lists.
        return json.loads(json.dumps({"converter_version": CONVERTER_VERSION, **values, **nested}))


@dataclass
class Summary:
    """What one run did; ``notes`` are worth telling the user."""

    written: int = 0
    kept: int = 0
    unused_s: float = 0.0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Converter:
    """Converts recordings one after the other into one folder."""

    def __init__(self, settings: ConversionSettings, folder: Path) -> None:
        self.settings, self.folder = settings, Path(folder)
        self.summary = Summary()
        self.segmenter: Segmenter | None = None
        self._claimed = False
        self._static_db: list[float] = []
        self._other_rates: list[str] = []
        known = check_folder(self.folder, SETTINGS_FILE, settings.record())
        self.metadata = RadarMetadata.load(self.folder) if known else None
        if self.metadata is not None and settings.prf_hz is not None:
            self._same_rate(settings.prf_hz, "--prf_hz")
        self.rows = _read_rows(self.folder / RECORDINGS_FILE) if known else {}

    def convert(self, sources: list[Source], skip_unreadable: bool) -> Summary:
        """Write the images of every recording that are not there yet.

        Raises:
            UserError: naming the first recording that cannot be converted, unless ``skip_unreadable``; images written
                before it stay, and the next run goes on after them.
        """
        sizes = [source.path.stat().st_size if source.path.is_file() else 0 for source in sources]
        try:
            with tqdm(total=sum(sizes), unit="B", unit_scale=True, desc="converting") as bar:
                for source, size in zip(sources, sizes, strict=True):
                    try:
                        self._convert_one(source, bar, size)
                    except UnusableRecording as error:
                        if not skip_unreadable:
                            raise
                        self.summary.skipped.append(str(error))
        finally:
            self._write_tables()
        if not self.rows:
            raise UserError(f"none of {len(sources)} recordings can be used, the first: {self.summary.skipped[0]}")
        self._add_notes()
        return self.summary

    @property
    def classes(self) -> list[str]:
        """The classes that have images."""
        return sorted({label for label, _ in self.rows})

    def image_path(self, label: str, name: str, index: int) -> Path:
        """Where segment ``index`` of a recording is written: numbers count time."""
        return self.folder / label / f"{name}_{index:05d}.{self.settings.file_format}"

    def _convert_one(self, source: Source, bar: tqdm, size: int) -> None:
        digest = _digest(source)
        row = self.rows.get((source.label, source.name))
        if row is not None and row["sha256"] != digest:
            raise UserError(
                f"{source.path}: {source.label}/{source.name}_* in {self.folder} come from another recording "
                f"({row['source']}): rename this one, or give another --output_dir"
            )
        if row is not None:
            paths = [self.image_path(source.label, source.name, index) for index in range(int(row["images"]))]
            if self.metadata is not None and all(path.exists() for path in paths):
                self.summary.kept += len(paths)
                bar.update(size)
                return
        recording = self._read(source)
        segmenter = self._segmenter_for(recording, source)
        images = segmenter.count(recording.iq.size)
        if images == 0:
            raise UnusableRecording(
                f"{source.path}: {recording.iq.size / segmenter.prf_hz:.4g} s are shorter than one segment "
                f"(--segment_s {segmenter.settings.segment_s:g})"
            )
        if not self._claimed:
            claim_folder(self.folder, SETTINGS_FILE, self.settings.record())
            self.metadata.save(self.folder)
            self._claimed = True
        # Images without a row are of unknown making: a run was killed before it could write its tables.
        trusted = row is not None
        self._measure_static_echo(recording.iq, segmenter)
        seconds = recording.iq.size / segmenter.prf_hz
        self.rows[source.label, source.name] = dict(
            zip(
                RECORDING_COLUMNS,
                (source.label, source.name, source.relative, digest, f"{seconds:.6g}", str(images)),
                strict=True,
            )
        )
        used = (images - 1) * segmenter.step + segmenter.length
        self.summary.unused_s += max(0, recording.iq.size - used) / segmenter.prf_hz
        (self.folder / source.label).mkdir(exist_ok=True)
        filtered = self._filtered(recording, segmenter, source)
        peak = segmenter.peak(filtered) if segmenter.settings.reference == "recording" else None
        done = 0
        for index in range(images):
            path = self.image_path(source.label, source.name, index)
            if trusted and path.exists():
                self.summary.kept += 1
            else:
                write_map(path, segmenter.scalar(filtered, index, peak), self.settings.colormap)
                self.summary.written += 1
            bar.update(size * (index + 1) // images - done)
            done = size * (index + 1) // images

    def _read(self, source: Source) -> Recording:
        settings = self.settings
        try:
            return read_recording(source.path, variable=settings.variable, dtype=settings.dtype, layout=settings.layout)
        except UserError as error:
            raise UnusableRecording(str(error)) from error

    def _filtered(self, recording: Recording, segmenter: Segmenter, source: Source) -> np.ndarray:
        try:
            return segmenter.filtered(recording.iq)
        except UserError as error:
            raise UnusableRecording(f"{source.path}: {error}") from error

    def _segmenter_for(self, recording: Recording, source: Source) -> Segmenter:
        prf_hz = self.settings.prf_hz if self.settings.prf_hz is not None else recording.prf_hz
        if prf_hz is None:
            raise UserError(f"{source.path} does not say its pulse repetition frequency: give --prf_hz")
        if recording.prf_hz is not None and not _close(recording.prf_hz, prf_hz):
            self._other_rates.append(f"{source.relative} ({recording.prf_hz:g} Hz)")
        if self.metadata is not None:
            self._same_rate(prf_hz, str(source.path))
        if self.segmenter is None:
            self.segmenter = Segmenter(self.settings.segments, prf_hz)
            self.metadata = self.segmenter.metadata(self.settings.carrier_hz, self.settings.colormap)
        return self.segmenter

    def _same_rate(self, prf_hz: float, origin: str) -> None:
        if not _close(prf_hz, self.metadata.prf_hz):
            raise UserError(
                f"{origin}: a PRF of {prf_hz:g} Hz, but {self.folder / RADAR_FILE} says {self.metadata.prf_hz:g} Hz: "
                "one data set has one PRF, so give another --output_dir"
            )

    def _measure_static_echo(self, iq: np.ndarray, segmenter: Segmenter) -> None:
        if segmenter.settings.mti == "none" and segmenter.settings.reference != "absolute":
            self._static_db.append(float(10.0 * np.log10(np.abs(iq.mean()) ** 2 / iq.var() + 1e-30)))

    def _add_notes(self) -> None:
        notes = self.summary.notes
        strong = [value for value in self._static_db if value > STATIC_DB]
        if strong:
            notes.append(
                f"the static echo is up to {max(strong):.0f} dB above all that moves in {len(strong)} recordings, and "
                "sets the scale there: --mti mean or --mti highpass takes it off"
            )
        if self._other_rates:
            notes.append(
                f"{len(self._other_rates)} files say another PRF than --prf_hz, first {self._other_rates[0]}; the flag "
                "was used"
            )
        if self.segmenter is not None and self.segmenter.shared_columns() > 0.0:
            notes.append(
                f"neighbouring images share {self.segmenter.shared_columns():.0%} of their slow time: keep a "
                f"recording's images in one part of a split (--group_csv {self.folder / GROUPS_FILE})"
            )

    def _write_tables(self) -> None:
        if not self._claimed:
            return
        rows = [row for _, row in sorted(self.rows.items())]
        _write_csv(self.folder / RECORDINGS_FILE, RECORDING_COLUMNS, [tuple(row.values()) for row in rows])
        groups = [
            (path.relative_to(self.folder).as_posix(), f"{row['class']}/{row['name']}")
            for row in rows
            for path in (self.image_path(row["class"], row["name"], index) for index in range(int(row["images"])))
            if path.exists()
        ]
        _write_csv(self.folder / GROUPS_FILE, ("path", "group"), groups)


class UnusableRecording(UserError):
    """One recording cannot be converted; the message names it."""


def _digest(source: Source) -> str:
    total = hashlib.sha256()
    if source.path.exists() and not source.path.is_file():
        raise UnusableRecording(f"{source.path}: not a file")
    try:
        with open(source.path, "rb") as file:
            while block := file.read(2**20):
                total.update(block)
    except OSError as error:
        raise UnusableRecording(f"{source.path}: cannot be read ({error.strerror})") from error
    return total.hexdigest()


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_RATE * other


def _read_rows(path: Path) -> dict[tuple[str, str], Row]:
    if not path.exists():
        return {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            if set(row) != set(RECORDING_COLUMNS) or int(row["images"]) < 1:
                raise ValueError("other columns")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: damaged ({error}); remove it to convert every recording anew") from error
    return {(row["class"], row["name"]): row for row in rows}


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())
