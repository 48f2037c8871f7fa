"""The codebook's look-up against that of diffusers, of vector-quantize-pytorch, and against a distance matrix.

    pip install -r requirements-benchmarks.txt
    python benchmarks/codebook.py --vectors 32768 --codes 8192

Prints a table, and in how many places each way's indices differ from those of a search in double precision, with the
most that a vector loses there; exit code 1 where ours loses more than rounding explains.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from diffusers.models.autoencoders.vae import VectorQuantizer
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from benchmarks import side_by_side
from training.arguments import positive_int, run_script
from vqvae.quantizer import nearest_code

OURS = "this project"
ROUNDING = 1e-5  # of a squared distance, relative


def exact(vectors: Tensor, codes: Tensor) -> Tensor:
    """Squared distance to the nearest code in double precision, (N,)."""
    codes = codes.double()
    return torch.cat([(torch.cdist(part, codes) ** 2).amin(1) for part in vectors.double().split(256)])


def compare() -> int:
    """Time and check the look-ups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=positive_int, default=32_768, help="latent vectors (default: 32768)")
    parser.add_argument("--codes", type=positive_int, default=8_192, help="rows of the codebook (default: 8192)")
    parser.add_argument("--channels", type=positive_int, default=4, help="of a vector (default: 4)")
    parser.add_argument("--rounds", type=positive_int, default=7, help="of every way (default: 7)")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vectors = torch.randn(args.vectors, args.channels, device=device)
    codes = torch.randn(args.codes, args.channels, device=device)
    diffusers = VectorQuantizer(args.codes, args.channels, beta=0.25, sane_index_shape=True).to(device).eval()
    diffusers.embedding.weight.data.copy_(codes)
    lucidrains = VectorQuantize(args.channels, args.codes, kmeans_init=False).to(device).eval()
    lucidrains._codebook.embed.data.copy_(codes[None])
    image = vectors.T.reshape(1, args.channels, -1, 1)  # diffusers quantises images
    ways = {
        OURS: lambda: nearest_code(vectors, codes),
        "distance matrix (cdist)": lambda: torch.cdist(vectors, codes).argmin(1),
        "diffusers VectorQuantizer": lambda: diffusers(image)[2][2].flatten(),
        "vector-quantize-pytorch": lambda: lucidrains(vectors[None])[1].flatten(),
    }
    print(f"{args.vectors} vectors of {args.channels}, {args.codes} codes; {side_by_side.machine()}")
    with torch.inference_mode():
        print(side_by_side.table(side_by_side.measure(ways, args.rounds), OURS))
        best = exact(vectors, codes)
        worst = {}
        for name, way in ways.items():
            lost = (vectors.double() - codes[way()].double()).square().sum(1) - best
            worst[name] = float((lost / best.clamp(min=1e-6)).max())
            print(f"{name}: {int((lost > 1e-12).sum())} indices differ, at most {worst[name]:.1e} of the distance lost")
    return int(worst[OURS] > ROUNDING)


if __name__ == "__main__":
    run_script(compare)
