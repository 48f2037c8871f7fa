"""Write new labelled spectrograms with a trained latent diffusion model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.arguments import (
    Parser,
    count,
    existing_file,
    fraction,
    integer,
    output_dir,
    positive_int,
    real,
    run_script,
    weight,
)

if TYPE_CHECKING:
    from ldm.checkpoint_file import References
    from ldm.generation import SamplingOptions, Sieve


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; impossible values end here with one line and code 2."""
    parser = Parser(__doc__)
    parser.add_argument("--ldm_path", type=existing_file, required=True, help="stage 2's checkpoint; it is enough")
    parser.add_argument("--vqgan_path", type=existing_file, default=None, help="stage 1's checkpoint, to override")
    parser.add_argument("--output_dir", type=output_dir, default=Path("augmented"), help="new folder of class folders")
    parser.add_argument("--samples_per_class", type=positive_int, default=100, help="images of each class")
    parser.add_argument("--classes", nargs="+", default=None, metavar="NAME", help="classes to draw (default: every)")
    parser.add_argument(
        "--guidance_scale", type=weight, default=1.0, help="1: as learned; more: clearer classes, less variety"
    )
    parser.add_argument(
        "--guide_path",
        type=existing_file,
        default=None,
        help="an earlier checkpoint of stage 2 that guidance leads away from, instead of from no class",
    )
    parser.add_argument(
        "--guidance_interval",
        type=fraction,
        nargs=2,
        default=[0.0, 1.0],
        metavar=("LOW", "HIGH"),
        help="noise levels, as fractions of all, in which guidance acts",
    )
    parser.add_argument("--num_inference_steps", type=integer(1, 1000), default=20, help="network evaluations an image")
    parser.add_argument("--sampler", choices=("dpm++", "ddim", "unipc"), default="dpm++", help="solver")
    parser.add_argument("--seed", type=count, default=0, help="image i of a class depends on seed and i alone")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="images drawn together")
    parser.add_argument(
        "--output_size", choices=("native", "model"), default="native", help="size of the data set's files, or trained"
    )
    parser.add_argument(
        "--file_format",
        choices=("native", "npy", "mat"),
        default="native",
        help="native: as the data set's files; npy and mat: decibels for NumPy, or for MATLAB with axes",
    )
    parser.add_argument(
        "--dynamic_range_db",
        type=real(0.0, 1e4, low_open=True),
        default=None,
        help="of npy and mat: decibels from black to white, where the data set had no radar.json",
    )
    parser.add_argument("--reject_copies", action="store_true", help="draw again what is a copy of a training image")
    parser.add_argument(
        "--reject_outliers", action="store_true", help="draw again what does not move like its class's training images"
    )
    parser.add_argument(
        "--conditions",
        choices=("own", "any", "none"),
        default=None,
        help="whose conditions to ask for: of the class's training images, of any class's, or none (default: any, if "
        "the model was told conditions)",
    )
    parser.add_argument(
        "--kept_conditions",
        nargs="*",
        default=None,
        metavar="NAME",
        help="conditions that stay the class's own with any (default: those that tell the class)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to draw")
    args = parser.parse_args(argv)
    if args.guide_path is not None and args.guidance_scale == 1.0:
        parser.error("--guide_path: guides nothing at --guidance_scale 1; give one above it, such as 1.5")
    if args.guidance_interval[0] > args.guidance_interval[1]:
        parser.error("--guidance_interval: LOW must not be above HIGH")
    if args.dynamic_range_db is not None and args.file_format == "native":
        parser.error("--dynamic_range_db: goes with --file_format npy or mat; native files hold no decibels")
    if args.kept_conditions is not None and args.conditions not in (None, "any"):
        parser.error(f"--kept_conditions: goes with --conditions any, not {args.conditions}")
    return args


def sieves_of(options: SamplingOptions, references: References) -> list[Sieve]:
    """The sieves that ``options`` ask for, from the training images that the checkpoint carries."""
    found: list[Sieve] = []
    if options.reject_copies:
        from evaluation.novelty import CopySieve

        found.append(CopySieve(references.images))
    if options.reject_outliers:
        from evaluation.physics import KinematicSieve

        found.append(KinematicSieve(references.images, references.labels))
    return found


def sample(args: argparse.Namespace) -> int:
    """Rebuild the generator from its checkpoint and draw what is missing in the output folder."""
    from errors import UserError
    from ldm.checkpoint_file import References, load_ldm
    from ldm.file_format import decibel_range
    from ldm.generation import SamplingOptions, file_format_of, generate, settled_conditions
    from ldm.sample_folder import SampleFolder, overview
    from training import processes
    from training.checkpoint import digest
    from training.failures import is_out_of_memory
    from training.setup import make_accelerator
    from training.stopping import StopRequest

    device = make_accelerator(args.device, "no").device
    pipeline, payload = load_ldm(args.ldm_path, args.vqgan_path, args.guide_path)
    contract, references = payload["contract"], References(payload)
    known = contract.classes
    classes = args.classes or list(known)
    for name in classes:
        if name not in known:
            raise UserError(f"--classes {name}: {args.ldm_path} knows {', '.join(known)}")
    conditions, kept = settled_conditions(args.conditions, args.kept_conditions, pipeline, args.ldm_path)
    if conditions == "any":
        but = f" but for {', '.join(kept)}, which stay the class's own" if kept else ""
        print(f"asked for under the conditions of any training image{but}; --conditions own: of the class's alone")
    options = SamplingOptions(
        sampler=args.sampler,
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        guidance_interval=tuple(args.guidance_interval),
        seed=args.seed,
        output_size=args.output_size,
        reject_copies=args.reject_copies,
        reject_outliers=args.reject_outliers,
        file_format=args.file_format,
        decibel_range=decibel_range(args.file_format, contract, args.dynamic_range_db),
        conditions=conditions,
        kept_conditions=kept,
    )
    checkpoint_digest = digest(args.ldm_path)
    guide_digest = digest(args.guide_path) if args.guide_path else None
    settings = {**options.record(), "checkpoint_sha256": checkpoint_digest, "guide_sha256": guide_digest}
    settings["train_images"] = payload["identity"].get("train_images")  # for whoever judges by the others
    folder = SampleFolder(args.output_dir, settings)
    try:
        pipeline.to(device)
        with StopRequest() as stop:
            drawn, told = generate(
                pipeline,
                contract,
                references,
                folder,
                classes,
                args.samples_per_class,
                options,
                args.batch_size,
                checkpoint_digest,
                lambda: stop.signal is not None,
                sieves_of(options, references),
            )
        if number := processes.highest(stop.signal or 0):
            if processes.is_first():
                print("stopped; run the same command again to go on", file=sys.stderr)
            return 128 + number
        form = file_format_of(options, contract)
        picture = overview(folder, classes, form) if processes.is_first() else None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"--batch_size {args.batch_size}: out of memory ({error}); give a smaller one, the same command then goes "
            "on after what is drawn"
        ) from error
    finally:
        folder.close()
    for line in told:
        print(line)
    look = f"; look at {picture}" if picture else ""
    print(f"{drawn} images drawn, {len(folder.done)} in {args.output_dir}{look}")
    return 0


if __name__ == "__main__":
    run_script(lambda: sample(parse()))
