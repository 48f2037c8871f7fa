"""Both stages begin with weights that were trained on other data, and refuse those of another form."""

from __future__ import annotations

import pytest
import torch
from tiny import make_images, run_ldm, run_vqgan

from errors import UserError
from training.warm_start import CLASS_TABLE, FIRST_LAYER, fitted_classes

pytestmark = pytest.mark.usefixtures("no_plots")
STILL = ("--lr", "1e-9", "--epochs", "1")  # so that what is written is what it began with


@pytest.fixture
def other_data(tmp_path):
    """Other images, of one known and one new class."""
    root = make_images(tmp_path / "other", seed=7)
    (root / "crawl").rename(root / "swim")
    return root


def weights_of(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["weights"]


def test_stage_1_begins_where_the_other_one_ended_with_codes_of_its_own(trained, other_data, tmp_path):
    assert run_vqgan(other_data, tmp_path / "new", *STILL, "--init_from", trained.vqgan) == 0
    before, after = weights_of(trained.vqgan), weights_of(tmp_path / "new" / "vqgan_epoch_1.pt")
    for name, tensor in before.items():
        if not name.startswith("quantize."):
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0, msg=name)
    codes = "quantize.embedding.weight"
    assert after[codes].shape != before[codes].shape or not torch.allclose(after[codes], before[codes], atol=1e-3)


def test_stage_2_finds_classes_by_their_names(trained, other_data, tmp_path):
    assert run_vqgan(other_data, tmp_path / "one", *STILL, "--init_from", trained.vqgan) == 0
    stage1 = tmp_path / "one" / "vqgan_epoch_1.pt"
    assert run_ldm(other_data, stage1, tmp_path / "two", *STILL, "--init_from", trained.ldm) == 0
    before, after = weights_of(trained.ldm), weights_of(tmp_path / "two" / "ldm_epoch_1.pt")
    _, walk, none = before.pop(CLASS_TABLE)
    swim, also_walk, also_none = after.pop(CLASS_TABLE)
    torch.testing.assert_close(also_walk, walk, atol=1e-6, rtol=0)
    torch.testing.assert_close(also_none, none, atol=1e-6, rtol=0)
    assert min((swim - walk).norm(), (swim - none).norm()) > 1
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0, msg=name)


def test_class_embeddings_follow_their_names_and_new_classes_have_their_own():
    table = torch.arange(8.0).view(4, 2)  # classes a, b, c and none
    fresh = -torch.arange(1.0, 9.0).view(4, 2)
    found = fitted_classes(table, ["a", "b", "c"], fresh, ["c", "new", "a"])
    assert found.tolist() == [table[2].tolist(), fresh[1].tolist(), table[0].tolist(), table[3].tolist()]


@pytest.mark.parametrize(("flag", "first", "number"), [("no_doppler_planes", 4, 7), ("no_told_conditions", 11, 4)])
def test_a_network_that_was_not_told_something_begins_as_it_was_and_may_learn_it(
    trained, tmp_path, flag, first, number
):
    untold, told = tmp_path / "untold", tmp_path / "told"
    assert run_ldm(trained.data, trained.vqgan, untold, *STILL, f"--{flag}") == 0
    before = weights_of(untold / "ldm_epoch_1.pt")[FIRST_LAYER]
    assert run_ldm(trained.data, trained.vqgan, told, *STILL, "--init_from", untold / "ldm_epoch_1.pt") == 0
    after = weights_of(told / "ldm_epoch_1.pt")[FIRST_LAYER]
    known, new, others = after[:, :first], after[:, first : first + number], after[:, first + number :]
    torch.testing.assert_close(torch.cat([known, others], dim=1), before, atol=1e-6, rtol=0)
    assert new.shape[1] == number and float(new.abs().max()) < 1e-6
    form = "same latent channels, widths, --no_doppler_planes and --no_told_conditions of the UNet"
    with pytest.raises(UserError, match=f"conv_in.weight is .* {form}"):
        run_ldm(trained.data, trained.vqgan, tmp_path / "c", f"--{flag}", "--init_from", trained.ldm)


def test_another_form_is_refused_with_the_flags_that_make_it(trained, tmp_path):
    with pytest.raises(UserError, match=r"--init_from .*vqgan_epoch_3.pt: its .* same --in_channels"):
        run_vqgan(trained.data, tmp_path / "a", "--block_out_channels", "32", "32", "--init_from", trained.vqgan)
    with pytest.raises(UserError, match=r"--init_from .*: its .* is .* both need the same latent channels, widths"):
        run_ldm(trained.data, trained.vqgan, tmp_path / "b", "--unet_channels", "32", "64", "--init_from", trained.ldm)
    other = ("--norm_num_groups", "8", "--padding_mode", "zeros", "--init_from", trained.vqgan)
    with pytest.raises(UserError, match=r"network is another: give --norm_num_groups 16 --padding_mode partial, as it"):
        run_vqgan(trained.data, tmp_path / "d", *other)
    with pytest.raises(UserError, match=r"network is another: give --norm_num_groups \d+, as it was trained with"):
        run_ldm(trained.data, trained.vqgan, tmp_path / "e", "--norm_num_groups", "32", "--init_from", trained.ldm)
    with pytest.raises(UserError, match="expected a vqgan checkpoint, found a ldm one"):
        run_vqgan(trained.data, tmp_path / "c", "--init_from", trained.ldm)
