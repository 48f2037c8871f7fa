"""Stop small runs at random moments, again and again: is every file whole, and is the end that of an undisturbed run?

    python benchmarks/stops.py --stops 100 --output_dir stops

Stage 1, stage 2 and sample.py take turns. Each stop is a SIGKILL anywhere, a SIGKILL while a file is being written, a
SIGTERM, a SIGUSR1 or a SIGINT; then every file under its final name is read, and the same command goes on. What a run
ends with is compared, bit by bit, with what one run without stops ended with. Prints a table; exit code 1 if anything
was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import ldm_flags, make_images, states_equal, vqgan_flags
from tqdm import tqdm

import sample
import train_ldm
import train_vqvae
from errors import UserError
from training.arguments import positive_int, run_script

EPOCHS = "6"  # of 3 steps each, every one of which is saved
OFTEN = f"--epochs {EPOCHS} --save_steps 1 --save_epochs 2 --validation_epochs 2 --num_workers 0".split()
SIGNALS = {
    "SIGKILL": signal.SIGKILL,
    "SIGKILL while saving": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "SIGUSR1": signal.SIGUSR1,
    "SIGINT": signal.SIGINT,
}
CAUGHT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
LEFT = (-signal.SIGKILL, *(-number for number in CAUGHT), *(128 + number for number in CAUGHT))  # negative: not begun
LONGEST = 600.0  # seconds that an undisturbed run may take
GRACE = 60.0  # seconds that a run may take to save and leave
Command = Callable[[Path], list[str]]


def commands(data: Path, reference: Path) -> dict[str, tuple[Callable[[list[str]], int], Command]]:
    """What takes turns: its function, and its flags for an output folder."""
    vqgan, ldm = (reference / stage / f"{stem}_epoch_{EPOCHS}.pt" for stage, stem in (("1", "vqgan"), ("2", "ldm")))
    draw = f"--ldm_path {ldm} --samples_per_class 20 --num_inference_steps 3 --batch_size 2 --device cpu".split()
    return {
        "1": (lambda flags: train_vqvae.train(train_vqvae.parse(flags)), lambda to: vqgan_flags(data, to, *OFTEN)),
        "2": (lambda flags: train_ldm.train(train_ldm.parse(flags)), lambda to: ldm_flags(data, vqgan, to, *OFTEN)),
        "sample.py": (lambda flags: sample.sample(sample.parse(flags)), lambda to: [*draw, "--output_dir", str(to)]),
    }


def start(run: Callable[[list[str]], int], flags: list[str], log: Path) -> int:
    """Fork a process that runs ``flags`` as its script does and exits with its code; returns its pid.

    A fork has torch loaded already, so that most of its life is training; this process never computes, and so has no
    threads that a fork would lose.
    """
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    code = 1
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            run_script(lambda: run(flags))
        except SystemExit as leaving:
            code = leaving.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code (negative: the signal) of a process that ends within ``seconds``, else None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def is_saving(folder: Path) -> bool:
    """Whether a file that has not got its name yet lies in ``folder`` or below."""
    return any(folder.rglob(".*.tmp"))


def stop(pid: int, kind: str, folder: Path, seconds: float) -> tuple[int | None, bool]:
    """Stop ``pid`` by one of ``SIGNALS``; its exit code (None: it hung), and whether a file was half written."""
    code = ended(pid, seconds)
    if kind == "SIGKILL while saving":
        while code is None and not is_saving(folder):
            code = ended(pid, 0.001)
    if code is not None:
        return code, False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, SIGNALS[kind])
    code = ended(pid, GRACE)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return code, code == -signal.SIGKILL and is_saving(folder)


def damaged(folder: Path) -> list[str]:
    """Files under their final names that cannot be read, each with the reason."""
    readers: dict[str, Callable[[Path], object]] = {
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".png": lambda path: Image.open(path).load(),
        ".safetensors": load_file,
        ".jsonl": lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]],
    }
    found = []
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or path.suffix not in readers:
            continue
        try:
            readers[path.suffix](path)
        except Exception as error:  # whatever a reader makes of a broken file
            found.append(f"{path}: {type(error).__name__}: {error}")
    return found


def differences(folder: Path, reference: Path) -> list[str]:
    """Files of a finished run that are not those of the undisturbed one."""
    found = []
    for theirs in sorted(reference.rglob("*")):
        ours = folder / theirs.relative_to(reference)
        if theirs.suffix not in (".pt", ".jsonl", ".png") or theirs.name.startswith("state_step"):
            continue
        if not ours.exists():
            found.append(f"{ours}: missing")
        elif theirs.suffix == ".pt":
            states = [torch.load(path, weights_only=True) for path in (ours, theirs)]
            for state in states:
                state.get("identity", {}).pop("arguments", None)  # they name the output folder
            if not states_equal(*states):
                found.append(f"{ours}: another state")
        elif ours.read_bytes() != theirs.read_bytes():
            found.append(f"{ours}: other content")
    return found


def measure() -> int:
    """Stop, look, go on; then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stops", type=positive_int, default=100, help="of each script (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--output_dir", type=Path, default=Path("stops"), help="emptied first (default: stops)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(args.output_dir, ignore_errors=True)
    reference = args.output_dir / "reference"
    reference.mkdir(parents=True)
    generator = random.Random(args.seed)
    lost: list[str] = []
    print("| script | kind of stop | stops | while a file was half written | runs that ended |\n|---|---|---|---|---|")
    for name, (run, flags) in commands(make_images(args.output_dir / "data"), reference).items():
        log = args.output_dir / f"{name}.log"
        began = time.monotonic()
        code = ended(start(run, flags(reference / name), log), LONGEST)
        whole = time.monotonic() - began
        if code != 0:
            raise UserError(f"{log}: the undisturbed run ended with code {code}")
        counts, half_written, finished, number = Counter(), Counter(), 0, 0
        with tqdm(total=args.stops, desc=name, unit="stop") as bar:
            while sum(counts.values()) < args.stops:
                folder, kind = args.output_dir / f"{name}_{number}", generator.choice(list(SIGNALS))
                code, caught = stop(start(run, flags(folder), log), kind, folder, generator.uniform(0, whole))
                lost += damaged(folder)
                if code == 0:
                    lost += differences(folder, reference / name)
                    shutil.rmtree(folder)
                    finished, number = finished + 1, number + 1
                    continue
                if code not in LEFT:
                    lost.append(f"{log}: {kind} ended with code {code}")
                counts[kind] += 1
                half_written[kind] += caught
                bar.update()
        for kind in SIGNALS:
            print(f"| {name} | {kind} | {counts[kind]} | {half_written[kind]} | {finished} |")
    print("\n".join(lost) if lost else "nothing was lost")
    return 1 if lost else 0


if __name__ == "__main__":
    run_script(measure)
