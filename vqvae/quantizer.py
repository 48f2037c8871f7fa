"""The codebook: diffusers' ``VectorQuantizer`` with the parts that keep a small radar data set from collapsing it.

Legend: N latent vectors, K codes of which the first L are live, D latent channels.
"""

from __future__ import annotations

import math

import torch
from diffusers.models.autoencoders.vae import VectorQuantizer
from scipy.spatial import cKDTree
from torch import Tensor, nn

from training import processes

TOKENS_PER_CODE = 64
"""Training latents that each live code should see; fewer, and codes memorise single vectors."""

_LOOKUP_FLOATS = {"cpu": 2**19, "cuda": 2**25}  # distances held at once: 2 MiB stay in a CPU's cache
# Over 32,768 vectors and 8,192 codes on one core the matrix product takes 3.9 times as long as the tree for 4 channels,
# twice as long for 5, as long for 6 and less for more. Under 1,024 codes the tree is no gain.
_TREE_CHANNELS, _TREE_CODES = 5, 1024
_VECTORS_PER_CODE = 16  # of the calibration's latents, as many as k-means looks at


def live_codes(num_codes: int, training_tokens: int) -> int:
    """How many of ``num_codes`` a data set of ``training_tokens`` latent vectors can keep alive.

    The largest power of two that leaves ``TOKENS_PER_CODE`` vectors a code, within [16, num_codes]. The others are
    never searched, so they cost nothing and cannot count as collapsed.
    """
    supported = max(training_tokens // TOKENS_PER_CODE, 1)
    return min(num_codes, max(16, 2 ** int(math.log2(supported))))


@torch.no_grad()
def nearest_code(vectors: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest code of every vector. (N, D), (L, D) -> (N,) int64.

    On a CPU, many codes of few channels are searched by a k-d tree, in double precision. Everything else by
    ``argmin |z - e|^2 = argmin |e|^2 / 2 - z.e``: one matrix product in fp32, in blocks of rows, so that the
    N x L distances never stand in memory together.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        vectors, codes = vectors.detach().float(), codes.detach().float()
        if vectors.device.type == "cpu" and vectors.shape[1] <= _TREE_CHANNELS and len(codes) >= _TREE_CODES:
            found = _nearest_by_tree(vectors, codes)
            if found is not None:
                return found
        half_norm = codes.square().sum(1) / 2  # (L,)
        transposed = codes.T.contiguous()
        rows = max(1, _LOOKUP_FLOATS.get(vectors.device.type, 2**23) // len(codes))
        # One place for all blocks: fresh memory for each took five times as long (8 rows of 65,536 codes).
        distances = vectors.new_empty(min(rows, len(vectors)), len(codes))
        found = []
        for block in vectors.split(rows):
            out = torch.addmm(half_norm, block, transposed, alpha=-1, out=distances[: len(block)])
            # NumPy's argmin is vectorised and torch's is not: measured 6 times faster over 4,096 x 8,192 floats.
            nearest = torch.from_numpy(out.numpy().argmin(1)) if out.device.type == "cpu" else out.argmin(1)
            found.append(nearest)
        return torch.cat(found)


def _nearest_by_tree(vectors: Tensor, codes: Tensor) -> Tensor | None:
    """``nearest_code`` by a k-d tree, which is built anew, for codes move; None where there are values that no tree
    takes, which the loss will tell of."""
    if not (vectors.isfinite().all() and codes.isfinite().all()):
        return None
    tree = cKDTree(codes.numpy())
    return torch.from_numpy(tree.query(vectors.numpy(), workers=torch.get_num_threads())[1])


def perplexity(counts: Tensor) -> float:
    """``exp`` of the entropy of code use: the number of codes in even use that would be as varied. (L,) -> [1, L]."""
    share = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(share).sum().exp())


class SpectrogramQuantizer(VectorQuantizer):
    """``VectorQuantizer`` whose codes start on the data, follow it by moving averages, and restart when unused.

    Differences to the class it extends: beta weighs the commitment term (``legacy=False``), the look-up needs no
    N x K matrix, only the first ``live`` codes are searched, and codes are learned by exponential moving averages of
    the vectors they win (van den Oord et al. 2017, appendix A.1) instead of by gradient.

    Args:
        n_e: K, rows of the codebook.
        vq_embed_dim: D.
        beta: weight of the commitment loss ``|z - sg(e)|^2``.
        decay: of the moving averages, per training step.
    """

    def __init__(self, n_e: int, vq_embed_dim: int, beta: float = 0.25, decay: float = 0.99) -> None:
        super().__init__(n_e, vq_embed_dim, beta=beta, sane_index_shape=True, legacy=False)
        self.decay = decay
        self.embedding.weight.requires_grad_(False)
        self.register_buffer("live", torch.tensor(n_e, dtype=torch.int64))
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("won_count", torch.zeros(n_e))
        self.register_buffer("won_sum", torch.zeros(n_e, vq_embed_dim))

    @property
    def live_embedding(self) -> Tensor:
        """The codes that are searched, (L, D)."""
        return self.embedding.weight[: int(self.live)]

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, tuple[None, None, Tensor]]:
        """Quantise latents. (B, D, H, W) -> ((B, D, H, W), commitment loss scalar, (None, None, (B, H, W) indices)).

        Gradients pass straight through to ``z``. Until ``start`` was called the latents come back as they are.
        """
        if not bool(self.started):
            nothing = torch.zeros(z.shape[0], *z.shape[2:], dtype=torch.int64, device=z.device)
            return z, z.new_zeros(()), (None, None, nothing)
        channels_last = z.permute(0, 2, 3, 1)  # (B, H, W, D)
        indices = nearest_code(channels_last.reshape(-1, self.vq_embed_dim), self.live_embedding)
        quantised = self.embedding(indices).view(channels_last.shape).permute(0, 3, 1, 2)  # (B, D, H, W)
        loss = self.beta * torch.mean((quantised - z.float()).square())
        straight_through = z + (quantised.to(z.dtype) - z).detach()
        return straight_through, loss, (None, None, indices.view(channels_last.shape[:3]))

    @torch.no_grad()
    def start(self, vectors: Tensor, live: int, generator: torch.Generator, iterations: int = 5) -> None:
        """Place the first ``live`` codes on encoder outputs ``vectors`` (N, D) by k-means and begin quantising."""
        order = torch.randperm(len(vectors), generator=generator)[: _VECTORS_PER_CODE * live]
        vectors = vectors[order.to(vectors.device)].float()
        picks = torch.arange(min(live, len(vectors)), device=vectors.device)
        picks = picks.repeat(math.ceil(live / len(picks)))[:live]
        # The jitter keeps codes that were drawn from one vector from being one code.
        jitter = torch.randn(live, vectors.shape[1], generator=generator).to(vectors.device)
        codes = vectors[picks] + 1e-3 * vectors.std(0) * jitter
        # As scipy.cluster.vq.kmeans2 does it, but on the latents' device and by the same look-up as quantising.
        for _ in range(iterations):
            won = nearest_code(vectors, codes)
            count = torch.bincount(won, minlength=live).unsqueeze(1).to(codes)
            total = torch.zeros_like(codes).index_add_(0, won, vectors)
            codes = torch.where(count > 0, total / count.clamp(min=1), codes)
        codes = processes.of_first(codes)  # sums on a GPU differ in their last bits from one to the next
        self.live.fill_(live)
        self.started.fill_(True)
        self.embedding.weight[:live] = codes
        self.won_count.zero_()
        self.won_count[:live] = 1.0
        self.won_sum.zero_()
        self.won_sum[:live] = codes

    @torch.no_grad()
    def follow(self, vectors: Tensor, indices: Tensor) -> None:
        """Move every live code towards the mean of the vectors it won in this step. (N, D), (N,).

        ``vectors`` are this process's share; they count together with those of all others.
        """
        live = int(self.live)
        count = torch.bincount(indices, minlength=live).to(self.won_count)  # (L,)
        total = torch.zeros_like(self.won_sum[:live]).index_add_(0, indices, vectors.float())
        count, total = processes.total(count), processes.total(total)
        self.won_count[:live].lerp_(count, 1 - self.decay)
        self.won_sum[:live].lerp_(total, 1 - self.decay)
        # A code that won nothing for long keeps its place; its running mean would be 0 / 0.
        held = self.won_count[:live].unsqueeze(1)
        self.embedding.weight[:live] = torch.where(
            held > 1e-3, self.won_sum[:live] / held.clamp(min=1e-3), self.embedding.weight[:live]
        )

    @torch.no_grad()
    def restart_idle(self, vectors: Tensor, generator: torch.Generator, below: float) -> int:
        """Move codes that win under ``below`` times an even share onto random ``vectors``; return how many.

        So codes leave where vectors are rare for where they are many. ``vectors`` are this process's share; every
        process draws the same ones from the shares of all.
        """
        live = int(self.live)
        count = self.won_count[:live]
        # Cut, because one code that wins all of an empty background would make every other one look idle.
        idle = count < below * count.clamp(max=2 * count.mean()).mean()
        number = int(idle.sum())
        if number == 0:
            return 0
        picks = torch.randint(len(vectors) * processes.number(), (number,), generator=generator).to(vectors.device)
        picks = picks - len(vectors) * processes.rank()
        mine = (picks >= 0) & (picks < len(vectors))
        fresh = torch.zeros(number, vectors.shape[1], device=vectors.device)
        fresh[mine] = vectors.float()[picks[mine]]
        fresh = processes.total(fresh)
        self.embedding.weight[:live][idle] = fresh
        mean = count.mean()
        self.won_count[:live][idle] = mean
        self.won_sum[:live][idle] = fresh * mean
        return number

    @torch.no_grad()
    def keep_only(self, used: Tensor) -> int:
        """Drop live codes that ``used`` (L,) bool leaves out: the rest moves to the front. Returns the new L."""
        keep = used.nonzero().squeeze(1)
        for table in (self.embedding.weight, self.won_count, self.won_sum):
            table[: len(keep)] = table[keep].clone()
        self.live.fill_(len(keep))
        return len(keep)


def freeze(module: nn.Module) -> nn.Module:
    """Put a module into evaluation mode and take it out of every gradient."""
    return module.eval().requires_grad_(False)
