"""Does synthetic data help where real images are few? The whole path from k images per class, draw by draw.

    python benchmarks/protocol.py --real_train DIR --real_test DIR --k 10 --seeds 5 --output_dir protocol
    python benchmarks/protocol.py --real_train DIR --real_test DIR --runs 1 --run_gap 4 --colormap jet ...
    python benchmarks/protocol.py --real_train DIR --runs 5 --group_by 'event(\\d+)' ...

Every draw chooses k images (or whole runs of windows, or other groups) of each class, and everything that learns sees
these alone: both stages, and the classifiers of every arm, which are then scored on the same test images, or, without
``--real_test``, on the groups that were not drawn. Differences are paired by draw; intervals are over draws, and leave
out that other test images could have been chosen. Settings are those with which samples of ten images of each person's
gait lift a classifier (docs/results.md), 70 minutes of one core a draw; others go through ``--vqvae``, ``--ldm``,
``--sample`` and ``--evaluate``, each as one quoted string. ``--init_from demo``, a folder that ``make demo`` wrote,
lets both stages begin with what they learned of simulated motion, which costs no measurement; their networks are then
those of the demo. What a draw has done already is not done again. The figures of every draw are kept in ``draws.json``,
and ``draws.png`` shows the draws of every k that it holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from matplotlib.figure import Figure

from errors import UserError
from evaluation.arms import ARMS, BASELINE, PRETRAINED_ARMS
from evaluation.intervals import mean_and_interval, plus_minus
from radar.metadata import FILE_NAME as RADAR
from spectrograms.groups import groups_of
from spectrograms.listing import Listing, list_images
from training.arguments import existing_dir, positive_int, run_script
from training.files import read_object, save_json
from training.order import EpochOrder
from training.pictures import save_figure

ROOT = Path(__file__).parents[1]
BATCH = 16
# A generator of few images learns what a radar may vary, is told it, and so draws none of it.
VARIED = "--augment_time_shift 0.25 --augment_gain 0.05"
VQVAE = "--block_out_channels 32 64 64 --layers_per_block 1 --lr 4e-4 --perceptual_loss_weight 0"
VQVAE += f" --g_loss_adv_weight 0 --val_fraction 0 {VARIED}"
LDM = "--unet_channels 64 96 128 --unet_layers_per_block 1 --attention_levels 1 --dropout 0.1 --lr 1e-3"
LDM += f" --augment_encodings 8 {VARIED}"
DEMO_VQVAE = "--block_out_channels 32 32 64 --layers_per_block 1 --lr 4e-4 --disc_lr 2e-4 --perceptual_loss_weight 0"
DEMO_VQVAE += f" --disc_channels 16 --disc_layers 2 --disc_start 0.5 {VARIED}"
DEMO_LDM = "--unet_channels 32 64 128 --norm_num_groups 16 --unet_layers_per_block 1 --attention_levels 1"
DEMO_LDM += f" --dropout 0.1 --lr 1e-3 --augment_encodings 8 {VARIED}"


def chosen(listing: Listing, groups: list[str], number: int, seed: int) -> list[str]:
    """Paths of ``number`` random groups of every class, or of all that it has."""
    generator = random.Random(seed)
    members: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, label, group in zip(listing.paths, listing.labels, groups, strict=True):
        members[label][group].append(path)
    paths: list[str] = []
    for label in sorted(members):
        names = sorted(members[label])
        for name in generator.sample(names, min(number, len(names))):
            paths += members[label][name]
    return paths


def undrawn(listing: Listing, groups: list[str], paths: list[str]) -> list[str]:
    """Paths of the groups of which nothing was drawn, for any class, not even the same file under another name."""
    drawn, marks = set(paths), [hashlib.sha256((listing.root / path).read_bytes()).digest() for path in listing.paths]
    known = {mark for path, mark in zip(listing.paths, marks, strict=True) if path in drawn}
    seen = {group for group, mark in zip(groups, marks, strict=True) if mark in known}
    return [path for path, group in zip(listing.paths, groups, strict=True) if group not in seen]


def copy_images(root: Path, paths: list[str], folder: Path) -> None:
    """Copy ``paths`` below ``root`` to the same places below ``folder``, and what is known of their radar."""
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target)
    if (root / RADAR).is_file():
        shutil.copyfile(root / RADAR, folder / RADAR)


def epochs(steps: int, images: int) -> int:
    """As many epochs as make ``steps``: draws of any size are trained equally long, but for images held back."""
    of_an_epoch = len(EpochOrder(images, BATCH, 0))
    return max(1, round(steps / of_an_epoch))


def schedule(steps: int, images: int) -> list[object]:
    """Flags for about ``steps`` steps, with a look at held-out images after every tenth of them."""
    number = epochs(steps, images)
    return ["--epochs", number, "--validation_epochs", max(1, number // 10)]


def begun(folder: Path | None, stage: str, stem: str) -> list[object]:
    """Flags that begin with the weights that ``make demo`` left in ``folder``, if any."""
    return ["--init_from", newest(folder / stage, stem)] if folder else []


def run(script: str, *flags: object) -> None:
    """Run one of the project's scripts; its own words are shown."""
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    print("+", shlex.join(command), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise UserError(f"{script} ended with code {code}")


def draw(args: argparse.Namespace, paths: list[str], held_out: list[str], folder: Path, seed: int) -> dict:
    """Train and sample on ``paths`` alone, judge on ``--real_test`` or else ``held_out``.

    Returns accuracy and macro F1 of every arm.
    """
    report = folder / "report" / "report.json"
    if not report.exists():
        copy_images(args.real_train, paths, folder / "data")
        test = args.real_test or folder / "held_out"
        if not args.real_test:
            if not held_out:
                raise UserError(f"--runs {args.runs}: draws all groups of {args.real_train}, none is left to judge by")
            copy_images(args.real_train, held_out, test)
        data = ["--data_dir", folder / "data"]
        split = ["--test_fraction", 0, *(["--run_gap", args.run_gap] if args.run_gap else [])]
        split += ["--group_by", args.group_by] if args.group_by else []
        form = ["--colormap", args.colormap] if args.colormap else ["--in_channels", 1]
        size = ["--image_size", *(args.model_size or [args.image_size])]
        kept = ["--keep_checkpoints", 1, "--seed", seed, "--batch_size", BATCH]
        stage1, stage2 = folder / "vqgan", folder / "ldm"
        begin = begun(args.init_from, "vqgan", "vqgan")
        flags = [*schedule(args.vqvae_steps, len(paths)), *begin, *shlex.split(args.vqvae)]
        run("train_vqvae.py", *data, *split, *form, *size, *kept, "--output_dir", stage1, *flags)
        begin = begun(args.init_from, "ldm", "ldm")
        flags = [*schedule(args.ldm_steps, len(paths)), *begin, *shlex.split(args.ldm)]
        run("train_ldm.py", *data, *kept, "--vqgan_path", newest(stage1, "vqgan"), "--output_dir", stage2, *flags)
        source = stage2 / "ldm_best.pt" if args.checkpoint == "best" else newest(stage2, "ldm")
        if not source.exists():
            raise UserError(f"--checkpoint best: nothing was held out in {stage2} to choose by; give last")
        number = round(len(paths) / len({path.split("/")[0] for path in paths}))
        made = ["--samples_per_class", number, "--output_dir", folder / "augmented", "--seed", seed]
        run("sample.py", "--ldm_path", source, *made, *shlex.split(args.sample))
        sets = ["--real_train", folder / "data", "--real_test", test, "--synthetic", folder / "augmented"]
        judged = [*(form if args.colormap else []), "--image_size", args.image_size, "--output_dir", folder / "report"]
        run("evaluate.py", *sets, *judged, "--seeds", 1, "--seed", seed, *shlex.split(args.evaluate))
    gain = json.loads(report.read_text(encoding="utf-8"))["gain"]
    return {arm: {figure: gain[arm][figure] for figure in ("accuracy", "macro_f1")} for arm in gain}


def newest(folder: Path, stem: str) -> Path:
    """The checkpoint of the highest epoch.

    Raises:
        UserError: there is none.
    """
    found = list(folder.glob(f"{stem}_epoch_*.pt"))
    if not found:
        raise UserError(
            f"{folder}: no such folder, or it holds no {stem}_epoch_N.pt; --init_from takes that of make demo"
        )
    return max(found, key=lambda path: int(path.stem.rpartition("_")[2]))


def table(draws: list[dict]) -> str:
    """The arms in Markdown: means over draws with 95% intervals, and paired differences to real + classical."""
    lines = [f"| training images | accuracy % | macro F1 % | points over {BASELINE} |", "|---|---|---|---|"]
    baseline = [found[BASELINE]["accuracy"] for found in draws]
    for arm in draws[0]:
        accuracy, f1 = ([found[arm][name] for found in draws] for name in ("accuracy", "macro_f1"))
        difference = [a - b for a, b in zip(accuracy, baseline, strict=True)]
        cells = [plus_minus(*mean_and_interval(values)) for values in (accuracy, f1, difference)]
        if arm == BASELINE:
            cells[2] = ""
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def check_settings(args: argparse.Namespace) -> None:
    """Draws of one folder are made alike but for their number of images and seeds.

    Raises:
        UserError: the folder holds draws of other settings.
    """
    own = ("k", "runs", "seeds", "output_dir")
    settings = {name: str(value) for name, value in vars(args).items() if name not in own and value is not None}
    kept = args.output_dir / "settings.json"
    before = read_object(kept, "choose another folder") if kept.exists() else settings
    if changed := sorted(name for name in settings | before if settings.get(name) != before.get(name)):
        flags = ", ".join(f"--{name}" for name in changed)
        raise UserError(f"--output_dir {args.output_dir}: holds draws with another {flags}; choose another folder")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    save_json(settings, kept)


def plot(draws: dict[str, dict], path: Path) -> None:
    """Draw accuracy against the number of images, or of runs, that were drawn: of whichever the last draw has."""
    groups: dict[int, list[dict]] = defaultdict(list)
    sizes = {name: name.rpartition("_seed")[0] for name in draws}
    kind = list(sizes.values())[-1].rstrip("0123456789")
    draws = {name: found for name, found in draws.items() if sizes[name].rstrip("0123456789") == kind}
    for name, found in draws.items():
        groups[int(sizes[name].removeprefix(kind))].append(found)
    figure = Figure(figsize=(6.4, 3.6))
    axes = figure.add_subplot()
    numbers = sorted(groups)
    arms = [arm for arm in ARMS | PRETRAINED_ARMS if all(arm in found for found in draws.values())]
    for place, arm in enumerate(arms):
        points = [mean_and_interval([found[arm]["accuracy"] for found in groups[number]]) for number in numbers]
        means, halves = 100 * np.array(points).T
        aside = 0.04 * (place - (len(arms) - 1) / 2)  # so that intervals do not hide each other
        axes.errorbar(np.arange(len(numbers)) + aside, means, halves, marker="o", capsize=2, linewidth=1, label=arm)
    what = "runs of each class" if kind == "runs" else "images of each class"
    axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
    axes.set(xlabel=f"real {what}", ylabel="accuracy (%), 95% interval over draws")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)  # off the points
    save_figure(figure, path, bbox_inches="tight")


def measure() -> int:
    """Go through all draws, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--real_train", type=existing_dir, required=True, help="real images to draw from")
    parser.add_argument("--real_test", type=existing_dir, help="real images that only judge; else what is not drawn")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--k", type=positive_int, help="images of each class")
    what.add_argument("--runs", type=positive_int, help="runs or groups of each class; needs --run_gap or --group_by")
    parser.add_argument("--run_gap", type=positive_int, help="as train_vqvae.py takes it")
    parser.add_argument("--group_by", help="as train_vqvae.py takes it")
    parser.add_argument("--colormap", help="as train_vqvae.py takes it")
    parser.add_argument("--image_size", type=positive_int, default=64, help="pixels a side, for the classifiers")
    parser.add_argument("--model_size", type=positive_int, nargs="+", help="for both stages; --image_size if none")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="last", help="of stage 2, to sample from")
    parser.add_argument("--seeds", type=positive_int, default=3, help="draws")
    parser.add_argument("--output_dir", type=Path, default=Path("protocol"), help="a folder for every draw")
    parser.add_argument("--init_from", type=existing_dir, help="begin with the weights of make demo in this folder")
    parser.add_argument("--vqvae_steps", type=positive_int, default=672, help=f"about so many steps of {BATCH} images")
    parser.add_argument("--ldm_steps", type=positive_int, default=2754, help=f"about so many steps of {BATCH} images")
    parser.add_argument("--vqvae", help=f"further flags of train_vqvae.py, in place of {VQVAE}")
    parser.add_argument("--ldm", help=f"further flags of train_ldm.py, in place of {LDM}")
    parser.add_argument(
        "--sample",
        default="--samples_per_class 100",
        help="further flags of sample.py; as many images as real ones if none",
    )
    parser.add_argument(
        "--evaluate", default="--classifier small --synthetic_share 0.25 --seeds 8", help="further flags of evaluate.py"
    )
    args = parser.parse_args()
    vqvae, ldm = (DEMO_VQVAE, DEMO_LDM) if args.init_from else (VQVAE, LDM)
    args.vqvae = vqvae if args.vqvae is None else args.vqvae
    args.ldm = ldm if args.ldm is None else args.ldm
    if args.runs and not (args.run_gap or args.group_by):
        parser.error("--runs needs --run_gap or --group_by")
    if not (args.runs or args.real_test):
        parser.error("--k needs --real_test: of a group that is drawn in part, the rest cannot judge")
    if args.checkpoint == "best" and "--val_fraction 0 " in f"{args.vqvae} ":
        parser.error(f"--checkpoint best: nothing is held out to choose by with --vqvae {args.vqvae}; give last")
    check_settings(args)
    listing = list_images(args.real_train)
    groups = groups_of(listing, group_by=args.group_by, run_gap=args.run_gap) if args.runs else list(listing.paths)
    names = [f"runs{args.runs}_seed{seed}" if args.runs else f"k{args.k}_seed{seed}" for seed in range(args.seeds)]
    kept = args.output_dir / "draws.json"
    draws = (
        read_object(kept, "delete it: the draws whose reports are there are not done again") if kept.exists() else {}
    )
    for seed, name in enumerate(names):
        if name not in draws:
            paths = chosen(listing, groups, args.runs or args.k, seed)
            held_out = [] if args.real_test else undrawn(listing, groups, paths)
            print(f"draw {seed + 1} of {args.seeds}: {len(paths)} images", flush=True)
            draws[name] = draw(args, paths, held_out, args.output_dir / name, seed)
            save_json(draws, kept)
    plot(draws, args.output_dir / "draws.png")
    print(table([draws[name] for name in names]))
    return 0


if __name__ == "__main__":
    run_script(measure)
