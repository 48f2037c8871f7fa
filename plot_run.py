"""Draw what a training run has logged and kept so far, also while it trains, or several runs over each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.arguments import Parser, existing_dir, output_dir, run_script


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; impossible values end here with one line and code 2."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--run_dir",
        type=existing_dir,
        nargs="+",
        required=True,
        help="run folder; several are compared by their curves",
    )
    parser.add_argument(
        "--output_dir",
        type=output_dir,
        default=None,
        help="where index.html, metrics.csv and pictures/ go (default: the run folder; comparison for several)",
    )
    parser.add_argument("--format", choices=("png", "svg"), default="png", help="of plots; sheets of images are PNG")
    args = parser.parse_args(argv)
    if args.output_dir is None:
        args.output_dir = args.run_dir[0] if len(args.run_dir) == 1 else Path("comparison")
    return args


def plot(args: argparse.Namespace) -> int:
    """Draw the run, or compare the runs, and say where the page is."""
    from run_pictures.run import compare_runs, draw_with_table

    if len(args.run_dir) > 1:
        page = compare_runs(args.run_dir, args.output_dir, args.format)
    else:
        page = draw_with_table(args.run_dir[0], args.output_dir, args.format)
    print(f"open {page} in a browser")
    return 0


if __name__ == "__main__":
    run_script(lambda: plot(parse()))
