"""What several test files share: one thread, and both stages trained once on tiny images."""

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
