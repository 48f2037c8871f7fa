"""What several test files share: one thread, both stages trained once on tiny images, Inception with random weights."""

from __future__ import annotations

import os

import pytest

# Tiny networks gain nothing from threads, and waiting threads cost a busy machine a hundredfold. Before torch's import.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Both stages trained on grey 16x16 images (``tiny.TrainedStages``); do not write to its folders."""
    from tiny import TrainedStages

    return TrainedStages(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def no_plots(monkeypatch):
    """Plots cost more than tiny training; the shared run (``trained``) has drawn them all."""
    monkeypatch.setattr("training.pictures.spectra_plot", lambda *_: None)
    for stage in ("vqvae.vqgan_trainer", "ldm.ldm_trainer"):
        monkeypatch.setattr(f"{stage}.draw_run", lambda _: {})


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """The network of the real weights file, with random weights."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    patch = pytest.MonkeyPatch()
    made: dict[str, torch.nn.Module] = {}

    def shapes_only(network: torch.nn.Module, *_: object, **__: object) -> None:
        made["network"] = network

    patch.setattr(torch, "load", lambda *_, **__: {})
    patch.setattr(torch.nn.Module, "load_state_dict", shapes_only)
    FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "none")
    patch.undo()
    torch.save(made["network"].state_dict(), path)
    return path
