"""Write a trained model as a diffusers folder, with safetensors and a model card."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.arguments import Parser, existing_file, output_dir, run_script


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; impossible values end here with one line and code 2."""
    parser = Parser(__doc__)
    parser.add_argument("--ldm_path", type=existing_file, required=True, help="stage 2's checkpoint; it is enough")
    parser.add_argument(
        "--guide_path", type=existing_file, default=None, help="an earlier checkpoint to guide with, written beside it"
    )
    parser.add_argument("--output_dir", type=output_dir, default=Path("exported"), help="new folder for the model")
    parser.add_argument("--report", type=existing_file, default=None, help="evaluate.py's report.json, for the card")
    parser.add_argument(
        "--license", default=None, metavar="IDENTIFIER", help="for the card, such as cc-by-4.0; yours to choose"
    )
    return parser.parse_args(argv)


def export(args: argparse.Namespace) -> int:
    """Rebuild the generator from its checkpoint, describe it, and write both."""
    from ldm.checkpoint_file import load_ldm
    from ldm.exported_folder import CARD, check_place, write_export
    from ldm.model_card import model_card, read_report
    from training.checkpoint import digest, understood

    digests = {"checkpoint_sha256": digest(args.ldm_path)}
    if args.guide_path:
        digests["guide_sha256"] = digest(args.guide_path)
    there = check_place(args.output_dir, digests)
    pipeline, payload = load_ldm(args.ldm_path, guide_path=args.guide_path)
    report = read_report(args.report, payload["contract"]) if args.report else None
    with understood(args.ldm_path, "stage 2"):
        card = model_card(pipeline, payload, args.output_dir.resolve().name, args.license, report)
    place = args.output_dir.resolve()  # of "." the name is needed, and the folder beside it
    # The folder that a shell stands in is filled: were it replaced, the shell would stand nowhere.
    write_export(pipeline, card, payload["epoch"], digests, place, there or place == Path.cwd())
    print(f"{'written anew' if there else 'written'}: {args.output_dir}; read {args.output_dir / CARD}")
    return 0


if __name__ == "__main__":
    run_script(lambda: export(parse()))
