"""Let the disk run full at random moments: is it told in one line, is what was saved still good, does the run go on?

    unshare --map-root-user --mount python benchmarks/full_disk.py --cases 30 --output_dir full_disk

Stage 1, stage 2 and sample.py write to a small file system in memory (``unshare`` lets anybody mount one on Linux), in
which a random part of what they need is free. Then room is made and the same command goes on; what it ends with is
compared, bit by bit, with what one run with room enough ended with. Prints a table; exit code 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from stops import LONGEST, commands, damaged, differences, ended, start
from tiny import make_images
from tqdm import tqdm

from errors import UserError
from training.arguments import EXIT_USER_ERROR, positive_int, run_script

ROOM = 2**24  # bytes that the disk has, apart from what the run needs


def bytes_in(folder: Path) -> int:
    """What the files in ``folder`` and below take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def mount(folder: Path, size: int) -> None:
    """Make ``folder`` a file system of ``size`` bytes.

    Raises:
        UserError: that takes other rights.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"{folder}: cannot be mounted; call this by unshare, as its help says")


def unmount(folder: Path) -> None:
    """Undo ``mount``."""
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def leave_free(disk: Path, free: int) -> None:
    """Write a file that leaves about ``free`` bytes of ``disk``."""
    with open(disk / "ballast", "wb") as file:
        file.truncate(0)
        left = shutil.disk_usage(disk).free - free
        while left > 0:
            left -= file.write(bytes(min(left, 2**20)))


def last_line(log: Path) -> str:
    """What the run said last."""
    lines = log.read_text(encoding="utf-8").replace("\r", "\n").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "")


def measure() -> int:
    """Fill the disk, look, make room and go on; then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=positive_int, default=30, help="of each script (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the room that is left (default: 0)")
    parser.add_argument("--output_dir", type=Path, default=Path("full_disk"), help="emptied first (default: full_disk)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(args.output_dir, ignore_errors=True)
    reference, disk = args.output_dir / "reference", args.output_dir / "disk"
    reference.mkdir(parents=True)
    generator = random.Random(args.seed)
    lost: list[str] = []
    print("| script | disks | ran full | while this was written |\n|---|---|---|---|")
    for name, (run, flags) in commands(make_images(args.output_dir / "data"), reference).items():
        log = args.output_dir / f"{name}.log"
        if ended(start(run, flags(reference / name), log), LONGEST) != 0:
            raise UserError(f"{log}: the undisturbed run failed")
        needed, told = bytes_in(reference / name), Counter()
        for _ in tqdm(range(args.cases), desc=name, unit="disk"):
            mount(disk, needed + ROOM)
            leave_free(disk, int(generator.uniform(0, needed)))
            log.unlink()
            code = ended(start(run, flags(disk / "run"), log), LONGEST)
            line = last_line(log)
            if code == EXIT_USER_ERROR and any(words in line for words in ("the disk is full", "No space left")):
                told[Path(line.split("error: ")[1].removeprefix("--output_dir ").split(":")[0]).name] += 1
            elif code != 0:
                lost.append(f"{log}: ended with code {code}: {line}")
            lost += damaged(disk / "run")
            (disk / "ballast").unlink()
            code = ended(start(run, flags(disk / "run"), log), LONGEST)
            if code != 0:
                lost.append(f"{log}: with room again it ended with code {code}: {last_line(log)}")
            found = differences(disk / "run", reference / name)
            if found:
                shutil.copytree(disk / "run", args.output_dir / f"lost_{len(lost)}")  # to look at
            lost += found
            unmount(disk)
        what = ", ".join(f"{path} {number}" for path, number in told.most_common())
        print(f"| {name} | {args.cases} | {told.total()} | {what} |", flush=True)
    print("\n".join(lost) if lost else "nothing was lost")
    return 1 if lost else 0


if __name__ == "__main__":
    run_script(measure)
