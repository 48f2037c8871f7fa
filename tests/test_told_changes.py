"""Stage 2 is told which encodings are of changed images: it learns from both, and draws what was measured."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import assert_same_run, run_ldm, run_sample

from ldm.checkpoint_file import load_ldm
from ldm.diffusion import told_changes, without_class
from ldm.latents import CachedLatents, LatentSet
from ldm.ldm_trainer import LDMTask
from training.order import EpochOrder
from training.warm_start import CLASS_TABLE

pytestmark = pytest.mark.usefixtures("no_plots")
CHANGED = ("--augment_time_shift", "0.5", "--augment_encodings", "3")


def state_table(folder) -> torch.Tensor:
    return torch.load(folder / "state_last.pt", weights_only=True)["task"]["unet"][CLASS_TABLE]


def test_labels_of_changed_images_are_those_of_a_second_table():
    labels, changed = torch.tensor([0, 1, 2, 0, 2]), torch.tensor([False, True, False, True, True])
    told = told_changes(labels, changed, 3)
    assert told.tolist() == [0, 5, 2, 4, 6]
    assert without_class(told, 3).tolist() == [3, 7, 3, 7, 7]


@pytest.mark.parametrize("told", [True, False])
def test_a_network_with_two_tables_hears_which_encodings_are_changed(told):
    """Encodings of 1, 2 and 3 by turns, the first as measured: in three epochs each image comes once untouched."""
    plain = LatentSet(torch.ones(10, 1, 1, 1), torch.arange(10) % 4, torch.zeros(10, 7))
    changed = torch.tensor([2.0, 3.0]).view(2, 1, 1, 1, 1).expand(2, 10, 1, 1, 1)
    task = SimpleNamespace(
        cached=CachedLatents(plain, plain, changed, torch.zeros(2, 10, 7), references=torch.zeros(0)),
        null_label=4,
        _changes_told=told,
        _prepared=lambda latents: latents,
    )
    order, measured = EpochOrder(10, 10, seed=0), 0
    for epoch in range(3):
        for latents, labels, _ in LDMTask.batches(task, order)(epoch, 0):
            untouched = latents.flatten() == 1
            measured += int(untouched.sum())
            assert torch.equal(labels < 4, untouched | (not told))
            assert torch.equal(labels % 5, plain.labels[next(order.batches(epoch, 0))])
    assert measured == 10


def test_checkpoints_hold_the_table_of_what_was_measured_alone(trained, tmp_path):
    folder = tmp_path / "run"
    flags = (trained.data, trained.vqgan, folder, *CHANGED)
    assert run_ldm(*flags, "--epochs", "1") == 0
    pipeline, payload = load_ldm(folder / "ldm_epoch_1.pt")
    rows = len(pipeline.class_names) + 1
    assert state_table(folder).shape[0] == 2 * rows
    assert payload["unet"]["num_class_embeds"] == len(payload["weights"][CLASS_TABLE]) == rows
    assert run_sample(folder / "ldm_epoch_1.pt", tmp_path / "samples") == 0
    assert run_ldm(*flags, "--epochs", "3") == 0  # the second table comes back, too


def test_without_changes_there_is_nothing_to_tell(trained, tmp_path):
    flags = (trained.data, trained.vqgan)
    assert run_ldm(*flags, tmp_path / "run", "--no_told_changes") == 0
    assert_same_run(tmp_path / "run", trained.ldm_folder)
    begun = json.loads((trained.ldm_folder / "arguments.json").read_text())
    assert begun["no_told_changes"] is True


def test_both_tables_begin_with_known_classes(trained, tmp_path):
    folder = tmp_path / "run"
    still = ("--lr", "1e-9", "--epochs", "1", "--init_from", trained.ldm)
    assert run_ldm(trained.data, trained.vqgan, folder, *CHANGED, *still) == 0
    known = torch.load(trained.ldm, weights_only=True)["weights"][CLASS_TABLE]
    torch.testing.assert_close(state_table(folder), torch.cat([known, known]), atol=1e-6, rtol=0)
