"""Time and memory of a training step: any command line of a training script, for a few steps, with nothing saved.

    python benchmarks/step_cost.py --steps 3 train_vqvae.py --data_dir dataset/mine --batch_size 8

prints a line per step and a summary as JSON. The steps are those from the middle of the run, where codes are in use
and the critic has its say; the first one is a warm-up and left out of the median. After them comes one more step,
slower, in which every tensor is weighed and the products of its networks are counted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

sys.path.insert(0, str(Path(__file__).parents[1]))

from training.arguments import run_script
from training.loop import TrainingLoop


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensor storages that are alive, wherever they are kept.

    What a GPU's allocator would be asked for, without its rounding and without the workspaces of its libraries, so
    that a machine without a GPU can say what a step needs on one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def count(self, tensor: torch.Tensor) -> None:
        """Take note of a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.count(value)
        return result


def operations(function: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Floating-point operations of one call of a convolution, a matrix product or attention; 0 for all else."""
    packet = function._overloadpacket
    # torch's table has no entry for the attention that CPUs compute.
    if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
    if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
    count = flop_registry.get(packet)
    return count(*args, **(kwargs or {}), out_val=result) if count else 0


class Products(TorchDispatchMode):
    """Counts the floating-point operations of convolutions, matrix products and attention.

    torch's own ``FlopCounterMode`` follows modules through the backward pass, which ``autograd.grad`` does not bear.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operations += operations(function, args, kwargs, result)
        return result


def measured_run(steps: int) -> Any:
    """A stand-in for ``TrainingLoop.run``: ``steps`` steps from the run's middle timed, one more weighed."""

    def run(loop: TrainingLoop) -> int:
        on_gpu = torch.cuda.is_available()
        middle = loop.total_steps // 2
        seconds = []
        batches = loop.batches(0, 0)
        for number, batch in zip(range(steps), batches, strict=False):
            began = time.perf_counter()
            loop.task.train_step(batch, middle + number)
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
            print(f"step {number + 1}: {seconds[-1]:.2f} s", flush=True)
        summary = {
            "steps": len(seconds),
            "median_s": statistics.median(seconds[1:] or seconds),
            "process_peak_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        if on_gpu:
            summary["gpu_peak_GiB"] = torch.cuda.max_memory_allocated() / 2**30
            summary["gpu"] = torch.cuda.get_device_name()
        batch = next(batches, batch)
        memory = LiveTensors()
        for value in tree_leaves([loop.task.state_dict(), batch]):
            if isinstance(value, torch.Tensor):
                memory.count(value)
        before = memory.live
        products = Products()
        with products, memory:
            loop.task.train_step(batch, middle + len(seconds))
        summary["tensors_between_steps_GiB"] = before / 2**30
        summary["tensors_peak_GiB"] = memory.peak / 2**30
        # Over a card's rated TFLOP/s: seconds that no step can take less than.
        summary["TFLOP"] = products.operations / 1e12
        print(json.dumps(summary))
        return 0

    return run


def measure() -> int:
    """Run the command line's training script for a few steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="training steps, the first a warm-up (default: 4)")
    parser.add_argument("script", choices=("train_vqvae.py", "train_ldm.py"), help="whose step")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="its flags; --output_dir is not used")
    args = parser.parse_args()
    script = importlib.import_module(args.script.removesuffix(".py"))
    TrainingLoop.run = measured_run(args.steps)
    with tempfile.TemporaryDirectory() as folder:
        return script.train(script.parse([*args.flags, "--output_dir", str(Path(folder) / "run")]))


if __name__ == "__main__":
    run_script(measure)
