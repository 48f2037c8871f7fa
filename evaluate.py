"""Judge synthetic spectrograms against real ones: do they help a classifier, are they labelled right, are they new?"""

from __future__ import annotations

import argparse
from pathlib import Path

from training.arguments import (
    Parser,
    count,
    existing_dir,
    existing_file,
    fraction,
    integer,
    output_dir,
    positive_int,
    positive_real,
    run_script,
)
from training.data_arguments import SPLIT_FLAGS, add_data_arguments, check_data_arguments


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--data_dir", type=existing_dir, default=None, help="real data; its parts are those that stage 1 used"
    )
    parser.add_argument("--real_train", type=existing_dir, default=None, help="instead: what the generator saw")
    parser.add_argument("--real_test", type=existing_dir, default=None, help="instead: real images it did not see")
    parser.add_argument("--synthetic", type=existing_dir, required=True, help="class folders that a generator wrote")
    parser.add_argument("--output_dir", type=output_dir, default=Path("report"), help="where the report goes")
    parser.add_argument(
        "--classifier",
        default="resnet18",
        metavar="NAME",
        help="small (quick), a torchvision network, or FILE.py:FUNCTION for your own",
    )
    parser.add_argument("--steps", type=positive_int, default=400, help="optimiser steps of every classifier")
    parser.add_argument(  # of one image, batch normalisation has nothing to take a deviation of
        "--batch_size", type=integer(2), default=64, help="images per step, two at least"
    )
    parser.add_argument(
        "--k", type=positive_int, nargs="+", default=[], metavar="IMAGES", help="also with so few real ones per class"
    )
    parser.add_argument(
        "--volumes",
        type=positive_real,
        nargs="+",
        default=[],
        metavar="RATIO",
        help="also with so many synthetic images per real one",
    )
    parser.add_argument(
        "--synthetic_share",
        type=fraction,
        default=None,
        metavar="SHARE",
        help="of every batch, where a class has real images too; none: as if their files lay in one folder",
    )
    parser.add_argument(
        "--classical_on",
        choices=("real", "all"),
        default="real",
        help="which images classical augmentation changes in arms that have synthetic ones too",
    )
    parser.add_argument(
        "--pretrain_on",
        type=existing_dir,
        default=None,
        metavar="DIR",
        help="class folders of any classes, simulate.py's say: also with classifiers that learn these first",
    )
    parser.add_argument("--seeds", type=positive_int, default=5, help="classifiers trained per arm")
    parser.add_argument("--seed", type=count, default=0, help="the first of them")
    parser.add_argument(
        "--inception_weights", type=existing_file, default=None, help="distances in Inception's features too: its file"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to train")
    add_data_arguments(parser)
    parser.set_defaults(image_size=[64])
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; impossible values end here with one line and code 2."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check_data_arguments(parser, args)
    if (args.data_dir is None) == (args.real_train is None):
        parser.error("give either --data_dir, or --real_train and --real_test")
    if (args.real_train is None) != (args.real_test is None):
        parser.error("--real_train and --real_test go together")
    if args.data_dir is not None and args.resplit:
        parser.error(
            "--resplit: the generator would have learned some of the images it is judged by; train anew with it, or "
            "give --splits of its run"
        )
    of_splits = [name for name in SPLIT_FLAGS if getattr(args, name) != parser.get_default(name)]
    if args.data_dir is None and of_splits:
        parser.error(
            f"--{of_splits[0]}: divides --data_dir; --real_train and --real_test are divided as they are: leave it out"
        )
    return args


def evaluate(args: argparse.Namespace) -> int:
    """Read the three sets of images, judge, and say where the report is."""
    from errors import UserError
    from evaluation.assessment import assess
    from evaluation.gain import Judge, Study
    from evaluation.points import check_points
    from evaluation.reading import read_sets
    from evaluation.tables import gain_rows
    from ldm.sample_folder import contract_to_read, division_warning
    from training.failures import is_out_of_memory
    from training.setup import make_accelerator

    device = make_accelerator(args.device, "no").device
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {args.output_dir}: cannot be made ({error.strerror}); give another") from error
    sets = read_sets(args, contract_to_read, division_warning)
    classes = sets.contract.classes
    ks, volumes = sorted(set(args.k)), sorted(set(args.volumes))
    for note in check_points(sets.real.labels, sets.synthetic.labels, classes, ks, volumes):
        print(note)
    study = Study(
        sets.real,
        sets.synthetic,
        sets.held_out,
        len(classes),
        Judge(args.classifier, args.steps, args.batch_size, device, args.synthetic_share, args.classical_on),
        range(args.seed, args.seed + args.seeds),
        [*ks, None],
        volumes,
        args.output_dir,
        sets.pretraining,
    )
    inception = None
    if args.inception_weights is not None:
        from evaluation.inception import Inception

        inception = Inception(args.inception_weights, device)
    try:
        results = assess(sets, study, args.output_dir, inception)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"--batch_size {args.batch_size}: out of memory ({error}); give a smaller one, a smaller --image_size or "
            "fewer images; of the same images and flags nothing is trained twice"
        ) from error
    print(f"\n{'training images':42}{'accuracy %':>16}{'macro F1 %':>16}{'over real + classical':>24}")
    for name, accuracy, f1, difference in gain_rows(results["gain"]):
        print(f"{name:42}{accuracy:>16}{f1:>16}{difference:>24}")
    agreement, novelty = results["agreement"], results["novelty"]
    print(
        f"labelled as drawn: synthetic {100 * agreement['synthetic']:.1f}%, held-out real "
        f"{100 * agreement['held_out']:.1f}%; nearest training image: synthetic {novelty['median_distance']:.4f}, "
        f"held-out real {novelty['median_distance_held_out']:.4f}; copies {100 * novelty['copied_share']:.1f}%"
    )
    print(f"{results['headline']}\nlook at {args.output_dir / 'grid.png'}, open {args.output_dir / 'report.html'}")
    return 0


if __name__ == "__main__":
    run_script(lambda: evaluate(parse()))
