"""What does guidance cost in variety: everywhere, in a part of the noise levels, or away from a worse network?

    python benchmarks/guidance.py --ldm_path FILE --real_train DIR --real_test DIR --ways 1 1.5 "1.5 0 0.9" "2 FILE.pt"

Draws from one checkpoint in several ways, each a ``--guidance_scale`` of ``sample.py``, if need be followed by the two
limits of a ``--guidance_interval``, and by a ``--guide_path``. All are judged by the same classifiers, against the
images of ``--real_test``: give those that you keep for choosing, not those that your last word is said on. What has
been drawn is not drawn again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn
from tqdm import trange

from benchmarks.protocol import run
from dataset import DataContract
from evaluation.classifier import batches_of, confusion, features, predict, train_classifier
from evaluation.fidelity import fidelity, mean_of, same_mixture
from evaluation.images import ImageSet, from_folder, halves
from evaluation.novelty import novelty, points_of_images, refuse_leak
from evaluation.physics import physics
from evaluation.verdict import mean_right
from ldm.checkpoint_file import load_ldm
from radar.metadata import RadarMetadata
from training.arguments import existing_dir, existing_file, positive_int, run_script

CPU = torch.device("cpu")
FIGURES = ("frechet", "kernel", "precision", "recall", "coverage")
FAR = 1.5  # floors
HEAD = ["guidance", "labels right", "distance to the nearest", *FIGURES, "kinematics over floor, mean", f"over {FAR}"]


def way_of(text: str) -> list[str]:
    """Flags of ``sample.py`` for "SCALE [LOW HIGH] [FILE.pt]"; what the numbers may be it says itself."""
    parts = text.split()
    guide = ["--guide_path", parts.pop()] if parts and parts[-1].endswith(".pt") else []
    if len(parts) not in (1, 3):
        raise argparse.ArgumentTypeError(
            f"must be a scale, or a scale and two limits, and perhaps FILE.pt, not {text!r}"
        )
    return ["--guidance_scale", parts[0], *(["--guidance_interval", *parts[1:]] if parts[1:] else []), *guide]


def name_of(way: list[str]) -> str:
    """How a way is called in the table and by its folder."""
    return " ".join(Path(part).stem if part.endswith(".pt") else part for part in way if not part.startswith("--"))


class Judges:
    """Networks that know the real images: one of all of them for labels, one of each half for distances."""

    def __init__(self, real: ImageSet, held_out: ImageSet, contract: DataContract, steps: int) -> None:
        self.real, self.held_out, self.contract = real, held_out, contract
        self.radar = RadarMetadata.from_dict(contract.radar) if contract.radar else None
        parts = [(real, real), *(halves(real, len(contract.classes), half) for half in (0, 1))]
        learned = [self._learn(part, steps, seed) for seed, (part, _) in enumerate(parts)]
        self.of_all = learned[0]
        self.of_halves = [(network, others) for network, (_, others) in zip(learned[1:], parts[1:], strict=True)]

    def _learn(self, images: ImageSet, steps: int, seed: int) -> nn.Module:
        classes = len(self.contract.classes)
        with trange(steps, desc=f"classifier {seed + 1} of 3", leave=False) as bar:
            return train_classifier(
                "small", classes, batches_of(images, None, classes, 64, None), steps, seed, CPU, bar.update
            )

    def right(self, images: ImageSet) -> float:
        """Share of images whose label the network of all real images gives them, mean over the classes there."""
        matrix = confusion(images.labels, predict(self.of_all, images.images, CPU), len(self.contract.classes))
        return mean_right(matrix, matrix)

    def rows(self, drawn: ImageSet) -> tuple[list[str], list[str]]:
        """Cells of ``drawn``, and of the held-out images as its floor."""
        near = novelty(*(points_of_images(part.images) for part in (drawn, self.real, self.held_out)))[0]
        found = mean_of([fidelity(*self._seen(*judge, drawn)) for judge in self.of_halves])
        motion = physics(
            self.real,
            self.held_out,
            drawn,
            self.contract.classes,
            self.radar,
            measured_rows=self.contract.native_size[0],
        )["overall"]
        ratios = {name: row["ratio"] for name, row in motion.items() if row["ratio"] is not None}
        far = [f"{name.replace('_', ' ')} {ratio:.1f}" for name, ratio in ratios.items() if ratio > FAR]
        moved = [f"{mean(ratios.values()):.2f}", ", ".join(far) or "none"]

        def cells(images: ImageSet, distance: str, side: str) -> list[str]:
            figures = [f"{found[side][name]:.{4 if name == 'kernel' else 2}f}" for name in FIGURES]
            return [f"{self.right(images):.1%}", f"{near[distance]:.4f}", *figures]

        return (
            [*cells(drawn, "median_distance", "synthetic"), *moved],
            [*cells(self.held_out, "median_distance_held_out", "floor"), "1", ""],
        )

    def _seen(self, network: nn.Module, others: ImageSet, drawn: ImageSet) -> list[Tensor]:
        parts = (others, self.held_out, drawn)
        picks = same_mixture(*(part.labels for part in parts))
        return [features(network, part.images[pick], CPU) for part, pick in zip(parts, picks, strict=True)]


def measure() -> int:
    """Draw and judge all ways, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--ldm_path", type=existing_file, required=True, help="checkpoint of stage 2")
    parser.add_argument("--real_train", type=existing_dir, required=True, help="real images that both stages learned")
    parser.add_argument("--real_test", type=existing_dir, required=True, help="real images that only judge")
    parser.add_argument(
        "--ways", type=way_of, nargs="+", required=True, metavar="WAY", help="'scale [low high] [FILE.pt]'"
    )
    parser.add_argument("--samples_per_class", type=positive_int, default=20, help="images of each class and way")
    parser.add_argument("--steps", type=positive_int, default=400, help="of each classifier")
    parser.add_argument("--output_dir", type=Path, default=Path("guidance"), help="a folder for every way")
    args = parser.parse_args()
    contract = load_ldm(args.ldm_path)[1]["contract"]
    real = from_folder(args.real_train, contract, 1, "--real_train")
    held_out = from_folder(args.real_test, contract, 1, "--real_test")
    refuse_leak(held_out, real, "the training images")
    folders = {}
    for way in args.ways:
        name = name_of(way)
        folders[name] = args.output_dir / name.replace(" ", "_")
        made = ["--samples_per_class", args.samples_per_class, "--output_dir", folders[name]]
        run("sample.py", "--ldm_path", args.ldm_path, *made, *way)
    judges = Judges(real, held_out, contract, args.steps)
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    floor: list[str] = []
    for name, folder in folders.items():
        cells, floor = judges.rows(from_folder(folder, contract, 1, "--synthetic"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    print("\n".join([*lines, f"| held-out images | {' | '.join(floor)} |"]))
    return 0


if __name__ == "__main__":
    run_script(measure)
