"""Which stage 1 gives the best samples, not the best reconstructions? Several of them, under one budget of stage 2.

    python benchmarks/tokenizers.py --real_train DIR --real_test DIR --run_gap 4 --colormap jet --output_dir tokenizers
    python benchmarks/tokenizers.py ... --only plain noise --seed 1

Every tokenizer is trained for as many steps on the same images; then stage 2 learns its latents for as many steps, with
the same network, and the samples are judged on the images of ``--real_test``, which no stage has seen. Give images that
you keep for choosing, not those that your last word is said on. A tokenizer whose report is there is not done again.
Further flags of the scripts go through ``--vqvae``, ``--ldm``, ``--sample`` and ``--evaluate``, each as one quoted
string.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.protocol import newest, run
from evaluation.intervals import plus_minus
from training.arguments import existing_dir, positive_int, run_script
from vqvae.utils import load_vqgan

TOKENIZERS = {
    "plain": "--block_out_channels 16 32 64",
    "noise": "--block_out_channels 16 32 64 --latent_noise 0.5",
    "more noise": "--block_out_channels 16 32 64 --latent_noise 1.5",
    "scales": "--block_out_channels 16 32 64 --latent_scaling 0.5",
    "8 channels": "--block_out_channels 16 32 64 --latent_channels 8",
    "coarse": "--block_out_channels 16 32 64 64",
    "coarse, 8 channels": "--block_out_channels 16 32 64 64 --latent_channels 8",
    "fine": "--block_out_channels 32 64",
}
STAGE1 = "--layers_per_block 1 --batch_size 16 --epochs 16 --lr 4e-4 --disc_lr 2e-4"
STAGE1 += " --perceptual_loss_weight 0 --disc_channels 16 --disc_layers 2 --disc_start 0.5 --validation_epochs 4"
STAGE2 = "--unet_channels 32 64 128 --norm_num_groups 16 --unet_layers_per_block 1 --attention_levels 1 --dropout 0.1"
STAGE2 += " --batch_size 16 --epochs 50 --lr 1e-3 --validation_epochs 10"
HEAD = (
    "| stage 1 | latents | PSNR (dB) | kernel distance (floor) | Frechet (floor) | coverage (floor) | labels right "
    "| synthetic alone | rows / columns (dB) | distance to the nearest (held-out) |"
)


def row(name: str, vqgan: Path, report: dict) -> str:
    """One tokenizer's figures in Markdown."""
    model, payload = load_vqgan(vqgan)
    side = payload["contract"].image_size
    grid = f"{side[0] // model.factor}x{side[1] // model.factor}x{model.config.latent_channels}"
    found, floor = report["fidelity"]["synthetic"], report["fidelity"]["floor"]
    off = [np.abs(report["spectra_db"]["synthetic"][axis]).mean() for axis in (0, 1)]
    novelty, gain = report["novelty"], report["gain"]["synthetic"]
    cells = [
        name,
        grid,
        f"{payload['figures']['psnr']:.2f}",
        *(f"{found[key]:.4f} ({floor[key]:.4f})" for key in ("kernel", "frechet")),
        f"{found['coverage']:.2f} ({floor['coverage']:.2f})",
        f"{report['agreement']['synthetic']:.1%}",
        plus_minus(gain["accuracy"], gain["accuracy_half_interval"]),
        f"{off[0]:.2f} / {off[1]:.2f}",
        f"{novelty['median_distance']:.4f} ({novelty['median_distance_held_out']:.4f})",
    ]
    return f"| {' | '.join(cells)} |"


def judged(name: str, args: argparse.Namespace) -> str:
    """Train both stages of one tokenizer, sample, judge; returns its row."""
    folder = args.output_dir / f"{name.replace(' ', '_').replace(',', '')}_{args.seed}"
    form = ["--colormap", args.colormap] if args.colormap else ["--in_channels", 1]
    data = ["--data_dir", args.real_train, "--test_fraction", 0, "--no_data_cache"]
    data += ["--run_gap", args.run_gap] if args.run_gap else []
    kept = ["--keep_checkpoints", 1, "--seed", args.seed]
    stage1, stage2, samples = folder / "vqgan", folder / "ldm", folder / "samples"
    if not (folder / "report" / "report.json").exists():  # what was stopped half-way goes on
        size = ["--image_size", *args.model_size]
        flags = [*shlex.split(STAGE1), *shlex.split(TOKENIZERS[name]), *shlex.split(args.vqvae)]
        run("train_vqvae.py", *data, *form, *size, *kept, "--output_dir", stage1, *flags)
        flags = [*shlex.split(STAGE2), *shlex.split(args.ldm)]
        run("train_ldm.py", *data, *kept, "--vqgan_path", newest(stage1, "vqgan"), "--output_dir", stage2, *flags)
        run("sample.py", "--ldm_path", newest(stage2, "ldm"), "--output_dir", samples, *shlex.split(args.sample))
        sets = ["--real_train", args.real_train, "--real_test", args.real_test, "--synthetic", samples]
        flags = ["--image_size", args.image_size, "--output_dir", folder / "report", *shlex.split(args.evaluate)]
        run("evaluate.py", *sets, *(form if args.colormap else []), *flags)
    report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    return row(name, newest(stage1, "vqgan"), report)


def measure() -> int:
    """Go through the tokenizers, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--real_train", type=existing_dir, required=True, help="real images that both stages learn")
    parser.add_argument("--real_test", type=existing_dir, required=True, help="real images that only judge")
    parser.add_argument("--run_gap", type=positive_int, help="as train_vqvae.py takes it")
    parser.add_argument("--colormap", help="as train_vqvae.py takes it")
    parser.add_argument("--image_size", type=positive_int, default=64, help="pixels a side, for the classifiers")
    parser.add_argument("--model_size", type=positive_int, nargs="+", default=[64], help="for both stages")
    parser.add_argument("--only", nargs="+", choices=list(TOKENIZERS), default=list(TOKENIZERS), help="of these")
    parser.add_argument("--seed", type=int, default=0, help="of both trainings")
    parser.add_argument("--output_dir", type=Path, default=Path("tokenizers"), help="a folder for every tokenizer")
    parser.add_argument("--vqvae", default="", help="further flags of train_vqvae.py")
    parser.add_argument("--ldm", default="", help="further flags of train_ldm.py")
    parser.add_argument("--sample", default="--samples_per_class 25", help="further flags of sample.py")
    parser.add_argument("--evaluate", default="--classifier small --seeds 3", help="further flags of evaluate.py")
    args = parser.parse_args()
    rows = [judged(name, args) for name in args.only]
    print("\n".join([HEAD, "|---" * HEAD.count(" | ") + "|---|", *rows]))
    return 0


if __name__ == "__main__":
    run_script(measure)
