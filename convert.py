"""Turn radar recordings (complex baseband samples) into a labelled data set of micro-Doppler spectrograms."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from radar.colormap_names import NAMES as COLORMAPS
from radar.settings import CARRIER_LIMITS_GHZ, MTI_METHODS
from training.arguments import Parser, integer, output_dir, positive_real, real, run_script

MAX_STFT = 2**20  # samples of a window or a transform
DYNAMIC_RANGE_LIMITS_DB = 1.0, 1000.0  # well within what radar.json may hold, whatever --ceiling_db


def _existing_path(text: str) -> Path:
    path = Path(text)
    try:
        there = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise argparse.ArgumentTypeError(f"{text[:80]!r} cannot be looked up ({error.strerror})") from None
    if not there:
        raise argparse.ArgumentTypeError(f"expected a recording or a folder at {text!r}, found nothing")
    return path


def _expression(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression ({error})") from None
    if not groups:
        raise argparse.ArgumentTypeError(f"{text!r} has no group: put parentheses around the class")
    return text


def _range_bins(text: str) -> tuple[int, int] | str:
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text)
    if match:
        first = int(match.group(1))
        last = int(match.group(2) or first)
        if first <= last:
            return first, last
    elif text == "sum":
        return text
    raise argparse.ArgumentTypeError(f"expected a bin, FIRST-LAST or sum, found {text!r}")


def _side(text: str) -> int | str:
    return text if text == "native" else integer(8, 4096)(text)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--input",
        type=_existing_path,
        required=True,
        help="a recording or a folder of them: .npy, .npz, .mat (to v7.3), .csv, .bin with complex or I/Q samples",
    )
    parser.add_argument(
        "--output_dir",
        type=output_dir,
        default=Path("dataset/mine"),
        help="folder for the class folders, radar.json, groups.csv and overview.png",
    )
    parser.add_argument("--skip_unreadable", action="store_true", help="go on without recordings that cannot be used")
    _add_recording_arguments(parser)
    _add_spectrogram_arguments(parser)
    _add_image_arguments(parser)
    args = parser.parse_args(arguments)
    if args.label is not None and args.class_from is not None:
        parser.error("--label and --class_from: give one of them")
    if args.overlap is not None and args.hop is not None:
        parser.error("--overlap and --hop: give one of them")
    if args.format == "npy" and args.colormap != "grey":
        parser.error(f"--colormap {args.colormap} is for PNG images: leave it out with --format npy")
    if len(args.image_size) > 2 or ("native" in args.image_size and len(args.image_size) > 1):
        parser.error(f"--image_size {' '.join(map(str, args.image_size))}: one number, rows and columns, or native")
    if 0 < args.fft_size < args.window_length:
        parser.error(f"--fft_size {args.fft_size} is below --window_length {args.window_length}")
    if args.hop is not None and args.hop > args.window_length:
        parser.error(f"--hop {args.hop} skips samples: use --window_length ({args.window_length}) or less")
    return args


def _add_recording_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recordings")
    group.add_argument("--label", default=None, metavar="CLASS", help="class of all recordings (default: the folder)")
    group.add_argument(
        "--class_from", type=_expression, default=None, metavar="REGEX", help="its first group over the relative path"
    )
    group.add_argument(
        "--prf_hz",
        type=real(0.0, 1e12, low_open=True),
        default=None,
        help="pulse repetition frequency (slow-time sampling rate) in Hz; needed unless the files say it",
    )
    group.add_argument(
        "--carrier_ghz", type=real(*CARRIER_LIMITS_GHZ), default=None, help="carrier frequency in GHz, for m/s"
    )
    group.add_argument("--variable", default=None, metavar="NAME", help="array of .npz and .mat files with several")
    group.add_argument("--dtype", choices=("int16", "float32"), default=None, help="of interleaved I, Q in .bin files")
    group.add_argument(
        "--slow_time_axis",
        type=int,
        choices=(0, 1),
        default=None,
        help="of complex matrices: 0 for matrix[pulse, range], 1 for matrix[range, pulse]",
    )
    group.add_argument(
        "--range_bin",
        type=_range_bins,
        default=None,
        metavar="BIN",
        help="of complex matrices: a range bin from 0, FIRST-LAST (summed), or sum (all)",
    )
    group.add_argument("--swap_iq", action="store_true", help="exchange I and Q, which mirrors Doppler")


def _add_spectrogram_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("spectrogram")
    group.add_argument(
        "--window", default="hann", help="hann, hamming, blackman, ..., or a number: a Kaiser window's beta"
    )
    group.add_argument("--window_length", type=integer(2, MAX_STFT), default=128, help="STFT window in samples")
    group.add_argument(
        "--overlap",
        type=real(0.0, 0.999),
        default=None,
        help="fraction of a window shared with the next (default: 0.75, or what gives each image column its own)",
    )
    group.add_argument("--hop", type=integer(1), default=None, help="samples between columns, instead of --overlap")
    group.add_argument(
        "--fft_size",
        type=integer(0, MAX_STFT),
        default=0,
        help="STFT length in samples; 0: the power of two that holds window and image rows",
    )
    seconds = real(0.0, 1e6, low_open=True)
    group.add_argument("--segment_s", type=seconds, default=2.0, help="seconds of a recording in one image")
    group.add_argument(
        "--segment_hop_s",
        type=seconds,
        default=None,
        help="seconds between the starts of two images (default: --segment_s, so that none share samples)",
    )
    group.add_argument("--mti", choices=MTI_METHODS, default="none", help="clutter filter over the whole recording")
    group.add_argument(
        "--mti_cutoff_hz", type=positive_real, default=20.0, help="Hz below which --mti highpass suppresses"
    )
    group.add_argument(
        "--max_doppler_hz", type=positive_real, default=None, help="cut off rows beyond +-this in Hz (default: PRF/2)"
    )


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images")
    group.add_argument(
        "--dynamic_range_db", type=real(*DYNAMIC_RANGE_LIMITS_DB), default=45.0, help="dB from value 0 to value 1"
    )
    group.add_argument(
        "--ceiling_db", type=real(-300.0, 300.0), default=0.0, help="dB over the reference that are value 1"
    )
    group.add_argument(
        "--reference",
        choices=("recording", "peak", "absolute"),
        default="recording",
        help="what 0 dB is: the recording's peak, each image's own, or power 1 in the file's unit",
    )
    group.add_argument(
        "--image_size",
        type=_side,
        nargs="+",
        default=[256],
        metavar="PIXELS",
        help="one number, rows (Doppler) and columns (time), or native: a pixel for each bin and column",
    )
    group.add_argument(
        "--colormap", choices=("grey", *COLORMAPS), default="grey", help="grey PNG, or the colours of RGB PNG"
    )
    group.add_argument(
        "--format", choices=("png", "npy"), default="png", help="PNG images, or npy for the float32 map in [0, 1]"
    )


def _settings(args: argparse.Namespace):
    from radar.conversion import ConversionSettings
    from radar.recordings import Layout
    from radar.segments import SegmentSettings

    native = args.image_size == ["native"]
    segments = SegmentSettings(
        window=args.window,
        window_length=args.window_length,
        overlap=args.overlap,
        hop=args.hop,
        fft_size=args.fft_size,
        segment_s=args.segment_s,
        segment_hop_s=args.segment_hop_s,
        dynamic_range_db=args.dynamic_range_db,
        ceiling_db=args.ceiling_db,
        reference=args.reference,
        mti=args.mti,
        mti_cutoff_hz=args.mti_cutoff_hz,
        image_size=None if native else (args.image_size[0], args.image_size[-1]),
        max_doppler_hz=args.max_doppler_hz,
        swap_iq=args.swap_iq,
    )
    return ConversionSettings(
        segments,
        prf_hz=args.prf_hz,
        carrier_hz=None if args.carrier_ghz is None else args.carrier_ghz * 1e9,
        colormap=args.colormap,
        file_format=args.format,
        variable=args.variable,
        dtype=args.dtype,
        layout=Layout(args.slow_time_axis, args.range_bin),
    )


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)

    from radar.conversion import SETTINGS_FILE, Converter
    from radar.export import check_folder
    from radar.sources import find_recordings
    from training.folder_lock import FolderLock

    sources = find_recordings(args.input, label=args.label, class_from=args.class_from, exclude=args.output_dir)
    settings = _settings(args)
    check_folder(args.output_dir, SETTINGS_FILE, settings.record())  # before anything, a lock too, is written there
    with FolderLock(args.output_dir):
        converter = Converter(settings, args.output_dir)
        summary = converter.convert(sources, args.skip_unreadable)
    for line in summary.skipped:
        print(f"left out: {' '.join(line.split())}")
    for note in summary.notes:
        print(f"note: {note}")

    from radar.overview import draw_overview  # matplotlib is slow to load: not before there is something to draw

    overview = draw_overview(args.output_dir, converter.classes, converter.metadata)
    print(
        f"{args.output_dir}: {summary.written} images written, {summary.kept} already there, of "
        f"{len(converter.classes)} classes ({', '.join(converter.classes)}); {summary.unused_s:.3g} s at the ends of "
        f"recordings were no whole segment; look at {overview}"
    )


if __name__ == "__main__":
    run_script(main)
