"""Group norms that keep 16-bit formats: the same figures, in the format and for the memory that CUDA would not give."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.kept_for_backward import cudas_autocast, stage_1, stage_2
from training.norm_formats import keep_formats

HALVES = (torch.float16, torch.bfloat16)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))
    nn.init.normal_(layers[1].weight)
    nn.init.normal_(layers[1].bias)
    return layers


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_norms_are_those_of_single_precision_and_weights_learn_in_it(dtype, offset):
    plain = network()[1]
    keeping = nn.Sequential(copy.deepcopy(plain))
    keep_formats(keeping)
    maps = (torch.randn(4, 8, 16, 16) + offset).to(dtype)
    found, expected = keeping(maps), plain(maps.float())
    assert found.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(found.float(), expected, atol=4 * step * float(expected.detach().abs().max()), rtol=0)
    found.float().square().sum().backward()
    assert keeping[0].weight.grad.dtype == torch.float32
    assert list(keeping.state_dict()) == ["0.weight", "0.bias"]


def test_single_precision_is_as_it_was():
    plain, keeping = network(), network()
    keep_formats(keeping)
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(plain(images), keeping(images))


@pytest.mark.parametrize("dtype", HALVES)
def test_cudas_autocast_gives_single_precision_where_these_do_not(dtype):
    with FakeTensorMode(allow_non_fake_inputs=True), cudas_autocast(dtype):
        with torch.device("cuda"):
            layers, images = network(), torch.zeros(2, 1, 16, 16)
        assert layers[:2](images).dtype == torch.float32, "else there would be nothing to mend"
        keep_formats(layers)
        assert layers[:2](images).dtype == dtype


@pytest.mark.parametrize("stage", [stage_1, stage_2])
def test_a_step_then_keeps_little_more_than_half_of_what_it_keeps_in_single_precision(stage):
    args = SimpleNamespace(batch_size=8, image_size=256)  # the weights in 16 bit are few beside so many maps
    with FakeTensorMode(allow_non_fake_inputs=True):
        single, _ = stage(args, None, False)
        as_autocast_has_it, _ = stage(args, torch.float16, False)
        kept, _ = stage(args, torch.float16, True)
    assert kept < 0.6 * single and kept < 0.66 * as_autocast_has_it
