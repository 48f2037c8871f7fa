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
from training.data_arguments import add_data_arguments, check_data_arguments, split_options


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
        help="of every batch, where there are real images too; none: as if their files lay in one folder",
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
    return args


def evaluate(args: argparse.Namespace) -> int:
    """Read the three sets of images, judge, and say where the report is."""
    from dataset import open_data
    from errors import UserError
    from evaluation.assessment import assess
    from evaluation.gain import Judge, Study
    from evaluation.images import from_dataset, from_listing, list_folder, shared_columns
    from evaluation.novelty import refuse_leak
    from evaluation.points import check_points
    from evaluation.tables import gain_rows
    from ldm.sample_folder import contract_to_read
    from radar.metadata import RadarMetadata
    from spectrograms.decode import UnreadableImage
    from spectrograms.listing import printable
    from spectrograms.survey import make_contract
    from training.setup import make_accelerator

    device = make_accelerator(args.device, "no").device
    remedy = "" if args.skip_unreadable else ", or pass --skip_unreadable"
    if args.data_dir is not None:
        data = open_data(
            args.data_dir,
            image_size=args.image_size,
            channels=None,
            colormap=args.colormap,
            multiple_of=1,
            split=split_options(args),
            class_level=args.class_level,
            skip_unreadable=args.skip_unreadable,
            output_dir=args.output_dir,
            judging=True,
        )
        contract, notes = data.contract, data.notes
        # Without a test part the validation images are judged on: stage 1 and 2 never learned from them either.
        seen, unseen = ([data.train, data.val], data.test) if len(data.test) else ([data.train], data.val)
        real, held_out = from_dataset(*seen), from_dataset(unseen)
    else:
        notes = []
        folders = {"--real_train": args.real_train, "--real_test": args.real_test}
        seen, unseen = (
            list_folder(folder, args.class_level, flag, args.skip_unreadable, notes) for flag, folder in folders.items()
        )
        try:
            contract = make_contract(seen, args.image_size, None, args.colormap, 1, notes)
            real, held_out = from_listing(seen, contract), from_listing(unseen, contract)
        except UnreadableImage as error:
            raise UserError(f"{error}{remedy}") from error
        notes += shared_columns(held_out, real, (args.real_test, args.real_train), args.output_dir)
    as_drawn = contract_to_read(args.synthetic, contract)
    drawn = list_folder(args.synthetic, 1, "--synthetic", args.skip_unreadable, notes)
    for note in notes:
        print(printable(note))
    try:
        synthetic = from_listing(drawn, as_drawn)
    except UnreadableImage as error:
        raise UserError(f"{error}{remedy}") from error
    refuse_leak(held_out, real, "the real training images")
    refuse_leak(held_out, synthetic, "the synthetic images")
    ks, volumes = sorted(set(args.k)), sorted(set(args.volumes))
    for note in check_points(real.labels, synthetic.labels, contract.classes, ks, volumes):
        print(note)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    study = Study(
        real,
        synthetic,
        held_out,
        len(contract.classes),
        Judge(args.classifier, args.steps, args.batch_size, device, args.synthetic_share),
        range(args.seed, args.seed + args.seeds),
        [*ks, None],
        volumes,
        args.output_dir,
    )
    radar = RadarMetadata.load(args.data_dir or args.real_train)
    inception = None
    if args.inception_weights is not None:
        from evaluation.inception import Inception

        inception = Inception(args.inception_weights, device)
    results = assess(real, held_out, synthetic, contract, radar, study, args.output_dir, inception)
    print(f"\n{'training images':32}{'accuracy %':>16}{'macro F1 %':>16}{'over real + classical':>24}")
    for name, accuracy, f1, difference in gain_rows(results["gain"]):
        print(f"{name:32}{accuracy:>16}{f1:>16}{difference:>24}")
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
