"""Write a labelled data set of simulated micro-Doppler spectrograms: people and drones before a radar."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from radar.colormap_names import NAMES as COLORMAPS
from radar.settings import ACTIVITIES, CARRIER_LIMITS_GHZ, MTI_METHODS, RadarSettings
from training.arguments import (
    Parser,
    count,
    integer,
    output_dir,
    positive_int,
    positive_real,
    real,
    run_script,
)

DEFAULTS = RadarSettings()


def _add_pair(group: argparse._ArgumentGroup, name: str, kind, default: tuple[float, float], text: str) -> None:
    group.add_argument(name, nargs=2, type=kind, default=default, metavar=("LOW", "HIGH"), help=text)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--output_dir",
        type=output_dir,
        default=Path("dataset/simulated"),
        help="folder for the class folders, radar.json, truth.csv and overview.png",
    )
    parser.add_argument("--samples_per_class", type=positive_int, default=100, help="images of each class")
    parser.add_argument("--image_size", type=integer(16, 1024), default=64, help="rows and columns in pixels")
    parser.add_argument("--seed", type=count, default=0, help="image i of a class depends on seed, class and i alone")
    parser.add_argument(
        "--classes",
        nargs="+",
        choices=ACTIVITIES,
        default=None,
        metavar="CLASS",
        help=f"of {', '.join(ACTIVITIES)} (default: all)",
    )
    parser.add_argument(
        "--colormap",
        choices=("grey", *COLORMAPS),
        default="grey",
        help="grey for 8-bit grey images, or the colour map of RGB images; jet is MATLAB's",
    )
    parser.add_argument(
        "--format",
        choices=("png", "npy"),
        default="png",
        help="png images, or npy for the float32 map in [0, 1]",
    )
    parser.add_argument("--workers", type=positive_int, default=os.cpu_count() or 1, help="processes")

    radar = parser.add_argument_group("radar and processing")
    radar.add_argument(
        "--carrier_ghz",
        type=real(*CARRIER_LIMITS_GHZ),
        default=DEFAULTS.carrier_hz / 1e9,
        help="carrier frequency in GHz (radars of this kind: 5.8 to 77)",
    )
    radar.add_argument(
        "--prf_hz",
        type=real(0.0),
        default=0.0,
        help="pulse repetition frequency in Hz; 0: 125 Hz per GHz of carrier, unambiguous to +-9.4 m/s",
    )
    radar.add_argument("--duration_s", type=positive_real, default=DEFAULTS.duration_s, help="observed time in seconds")
    radar.add_argument(
        "--window",
        default=DEFAULTS.window,
        help="STFT window: hann, hamming, blackman, ..., or a number: a Kaiser window's beta",
    )
    radar.add_argument(
        "--window_length", type=integer(2), default=DEFAULTS.window_length, help="STFT window in samples"
    )
    radar.add_argument(
        "--hop",
        type=count,
        default=0,
        help="samples between STFT columns; 0: a quarter of the window, or less for wide images",
    )
    radar.add_argument(
        "--fft_size",
        type=count,
        default=0,
        help="STFT length in samples; 0: the power of two that holds window and image rows",
    )
    radar.add_argument(
        "--dynamic_range_db",
        type=positive_real,
        default=DEFAULTS.dynamic_range_db,
        help="dB from black (0) to the image's peak (255)",
    )
    radar.add_argument("--mti", choices=MTI_METHODS, default=DEFAULTS.mti, help="clutter filter")
    radar.add_argument(
        "--mti_cutoff_hz",
        type=positive_real,
        default=DEFAULTS.mti_cutoff_hz,
        help="Hz below which --mti highpass suppresses",
    )

    scene = parser.add_argument_group("scene")
    _add_pair(
        scene,
        "--snr_db",
        real(-60.0, 120.0),
        DEFAULTS.snr_db,
        "mean echo power over noise power in one slow-time sample, in dB",
    )
    scene.add_argument(
        "--clutter_db",
        type=real(-60.0, 120.0),
        default=None,
        help="static clutter's power over the mean echo power, in dB (default: no clutter)",
    )
    _add_pair(
        scene,
        "--range_m",
        real(2.0, 1e5),
        DEFAULTS.range_m,
        "ground range in metres of the near end of the path; of drones of its middle, and 4 m farther off",
    )
    _add_pair(
        scene,
        "--aspect_deg",
        real(0.0, 180.0),
        DEFAULTS.aspect_deg,
        "angle in degrees between heading and radar: 0 comes straight on, 180 goes straight away; drones fly any way",
    )
    _add_pair(scene, "--body_height_m", real(1.0, 2.3), DEFAULTS.body_height_m, "people's height in metres")
    scene.add_argument(
        "--radar_height_m",
        type=real(0.0, 100.0),
        default=DEFAULTS.radar_height_m,
        help="height of the antenna over the floor in metres",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    radar = RadarSettings(
        carrier_hz=args.carrier_ghz * 1e9,
        prf_hz=args.prf_hz,
        duration_s=args.duration_s,
        window=args.window,
        window_length=args.window_length,
        hop=args.hop,
        fft_size=args.fft_size,
        dynamic_range_db=args.dynamic_range_db,
        snr_db=tuple(args.snr_db),
        clutter_db=args.clutter_db,
        mti=args.mti,
        mti_cutoff_hz=args.mti_cutoff_hz,
        range_m=tuple(args.range_m),
        aspect_deg=tuple(args.aspect_deg),
        body_height_m=tuple(args.body_height_m),
        radar_height_m=args.radar_height_m,
    )

    from radar.export import check_folder
    from radar.overview import draw_overview
    from radar.scene import image_metadata
    from radar.simulation import SETTINGS_FILE, Plan, simulate_dataset
    from training.folder_lock import FolderLock

    plan = Plan(radar, args.image_size, args.seed, args.colormap, args.format)
    classes = list(dict.fromkeys(args.classes or ACTIVITIES))
    check_folder(args.output_dir, SETTINGS_FILE, plan.record())  # before anything, a lock too, is written there
    with FolderLock(args.output_dir):
        new, kept = simulate_dataset(plan, args.output_dir, classes, args.samples_per_class, args.workers)
        present = [name for name in ACTIVITIES if (args.output_dir / name).is_dir()]
        overview = draw_overview(args.output_dir, present, image_metadata(radar, args.image_size, args.colormap))
    print(f"{args.output_dir}: {new} images written, {kept} already there; look at {overview}")


if __name__ == "__main__":
    run_script(main)
