"""Inception's features, in which the field states its Frechet distances, from a local weights file.

Legend: N images, C channels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from tqdm import tqdm

from errors import UserError
from training import checkpoint

FEATURES = "2048"  # the layer before the classes
BATCH = 32
WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"


class Inception:
    """(N, C, H, W) in [-1, 1] -> (N, 2048).

    Args:
        weights: torch-fidelity's Inception of the original Frechet distance (``WEIGHTS_FILE``). Never fetched.
        device: where to compute.

    Attributes:
        digest: SHA-256 of the weights file.

    Raises:
        UserError: not these weights.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        try:
            torch.load(weights, map_location="cpu", weights_only=True)  # the library would execute what is in it
            self._network = FeatureExtractorInceptionV3("inception-v3-compat", [FEATURES], str(weights)).to(device)
        except Exception as error:  # the unpickler raises whatever a damaged or foreign file provokes
            reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
            raise UserError(
                f"--inception_weights {weights}: not torch-fidelity's {WEIGHTS_FILE} ({reason}); fetch that file from "
                "the releases of torch-fidelity, or leave the flag out"
            ) from error
        self._device = device
        self.digest = checkpoint.digest(weights)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of ``images``; one channel is shown to the network three times, as grey."""
        found = []
        for part in tqdm(images.split(BATCH), desc="Inception's features", unit="batch", leave=False):
            grey = ((part.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            found.append(self._network(grey.expand(-1, 3, -1, -1).to(self._device))[0].cpu())
        return torch.cat(found)
