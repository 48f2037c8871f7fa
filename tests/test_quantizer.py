"""The codebook against independent implementations: look-up, moving averages, restarts, and no collapse."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.autoencoders.vae import VectorQuantizer

from vqvae import quantizer as module
from vqvae.quantizer import SpectrogramQuantizer, live_codes, nearest_code, perplexity


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(vectors: torch.Tensor, live: int, codes: int = 64, decay: float = 0.99) -> SpectrogramQuantizer:
    quantizer = SpectrogramQuantizer(codes, vectors.shape[1], decay=decay)
    quantizer.start(vectors, live, seeded(1))
    return quantizer


@pytest.mark.parametrize(
    ("vectors", "codes", "dims"),
    [(1000, 300, 4), (1, 7, 4), (50, 1, 3), (33, 512, 1), (2000, 2048, 4), (500, 1024, 6), (500, 1024, 7)],
)
def test_nearest_code_is_argmin_of_distance(vectors, codes, dims):
    z = torch.randn(vectors, dims, generator=seeded()).requires_grad_()
    e = torch.randn(codes, dims, generator=seeded(1))
    distance = torch.cdist(z.double(), e.double())
    found = nearest_code(z, e)
    assert found.dtype == torch.int64
    # A wrong index would be farther away; an equally near one (to fp32 rounding) is right as well.
    torch.testing.assert_close(distance[range(vectors), found], distance.min(1).values, rtol=1e-4, atol=1e-5)
    assert (found == distance.argmin(1)).float().mean() > 0.99


@pytest.mark.parametrize("codes", [256, 2048])
def test_every_code_is_nearest_to_itself(codes):
    e = torch.randn(codes, 4, generator=seeded())
    assert torch.equal(nearest_code(e, e), torch.arange(codes))


def test_tree_and_matrix_product_find_the_same_codes(monkeypatch):
    z, e = torch.randn(5000, 4, generator=seeded()), torch.randn(1500, 4, generator=seeded(1))
    by_tree = nearest_code(z, e)
    monkeypatch.setattr(module, "_TREE_CODES", 10**9)
    by_product = nearest_code(z, e)
    apart = by_tree != by_product
    assert apart.float().mean() < 1e-3
    torch.testing.assert_close(  # where they differ, two codes are equally near to fp32's rounding
        (z - e[by_tree]).norm(dim=1), (z - e[by_product]).norm(dim=1), rtol=1e-5, atol=1e-6
    )


def test_values_that_are_no_numbers_are_left_to_the_loss():
    z, e = torch.randn(50, 4, generator=seeded()), torch.randn(2048, 4, generator=seeded(1))
    z[3, 1] = torch.nan
    found = nearest_code(z, e)
    assert found.shape == (50,) and torch.equal(found[4:], nearest_code(z[4:], e))


def test_nearest_code_does_not_depend_on_the_block_size(monkeypatch):
    z, e = torch.randn(500, 4, generator=seeded()), torch.randn(40, 4, generator=seeded(1))
    whole = nearest_code(z, e)
    for floats in (1, 40 * 7, 40 * 499):
        monkeypatch.setitem(module._LOOKUP_FLOATS, "cpu", floats)
        assert torch.equal(nearest_code(z, e), whole)


@pytest.mark.parametrize(
    ("codes", "tokens", "live"),
    [
        (8192, 64 * 8192, 8192),
        (8192, 64 * 8192 - 1, 4096),
        (8192, 64 * 1000, 512),
        (8192, 10**9, 8192),
        (8192, 0, 16),
        (8192, 100, 16),
        (10, 10**9, 10),
    ],
)
def test_live_codes_are_the_power_of_two_that_leaves_64_latents_each(codes, tokens, live):
    assert live_codes(codes, tokens) == live


def test_start_places_every_code_on_the_data():
    vectors = 3 + 0.2 * torch.randn(4000, 4, generator=seeded())
    quantizer = started(vectors, live=64, codes=128)
    counts = torch.bincount(nearest_code(vectors, quantizer.live_embedding), minlength=64)
    assert int(quantizer.live) == 64 and (counts > 0).all()
    assert perplexity(counts) > 0.8 * 64
    # k-means: each code is nearer to its vectors than random data points would be.
    error = torch.cdist(vectors, quantizer.live_embedding).min(1).values.square().mean()
    random_error = torch.cdist(vectors, vectors[:64]).min(1).values.square().mean()
    assert error < 0.9 * random_error


def test_start_with_fewer_vectors_than_codes_gives_distinct_codes():
    vectors = torch.randn(5, 4, generator=seeded())
    codes = started(vectors, live=16).live_embedding
    assert len(torch.unique(codes, dim=0)) == 16
    assert torch.cdist(codes, vectors).min(1).values.max() < 0.05


def test_follow_is_the_moving_average_of_the_vectors_won():
    vectors = torch.randn(200, 3, generator=seeded())
    decay = 0.9
    quantizer = started(vectors, live=8, codes=12, decay=decay)
    codes = quantizer.live_embedding.clone().double().tolist()
    count, total = [1.0] * 8, [list(code) for code in codes]
    for step in range(5):
        batch = torch.randn(60, 3, generator=seeded(10 + step))
        indices = nearest_code(batch, quantizer.live_embedding)
        for code in range(8):
            won = batch[indices == code].double()
            count[code] = decay * count[code] + (1 - decay) * len(won)
            total[code] = [
                decay * old + (1 - decay) * float(new) for old, new in zip(total[code], won.sum(0), strict=True)
            ]
        quantizer.follow(batch, indices)
        expected = torch.tensor([[value / count[code] for value in total[code]] for code in range(8)])
        torch.testing.assert_close(quantizer.live_embedding, expected, rtol=1e-4, atol=1e-5)


def test_a_code_that_wins_nothing_keeps_its_place():
    quantizer = started(torch.randn(100, 3, generator=seeded()), live=4, decay=0.5)
    before = quantizer.live_embedding[3].clone()
    for _ in range(60):
        quantizer.follow(torch.zeros(10, 3), torch.zeros(10, dtype=torch.int64))
    torch.testing.assert_close(quantizer.live_embedding[3], before)
    torch.testing.assert_close(quantizer.live_embedding[0], torch.zeros(3), atol=1e-5, rtol=0)


def test_restart_moves_idle_codes_only_and_onto_the_vectors():
    vectors = torch.randn(100, 3, generator=seeded())
    quantizer = started(vectors, live=8)
    quantizer.won_count[:8] = torch.tensor([5.0, 5, 0, 5, 0.01, 5, 5, 5])
    before = quantizer.live_embedding.clone()
    fresh = 10 + torch.randn(50, 3, generator=seeded(3))
    assert quantizer.restart_idle(fresh, seeded(4), 0.4) == 2
    after = quantizer.live_embedding
    alive = [0, 1, 3, 5, 6, 7]
    assert torch.equal(after[alive], before[alive])
    assert (after[[2, 4], None] == fresh).all(-1).any(-1).all()
    assert quantizer.restart_idle(fresh, seeded(5), 0.4) == 0, "a code that was just restarted must get its chance"


def test_one_code_that_wins_nearly_all_makes_no_other_idle():
    quantizer = started(torch.randn(100, 3, generator=seeded()), live=8)
    quantizer.won_count[:8] = torch.tensor(
        [100.0, 1, 1, 1, 1, 1, 1, 0.1]
    )  # on average 13, but for seven codes hardly 1
    before = quantizer.live_embedding.clone()
    assert quantizer.restart_idle(10 + torch.randn(50, 3, generator=seeded(3)), seeded(4), 0.2) == 1
    assert (quantizer.live_embedding != before).any(1).tolist() == [False] * 7 + [True]


def error_and_evenness(
    learned: torch.Tensor, judged: torch.Tensor, live: int, idle: float, placed_on: torch.Tensor | None = None
) -> tuple[float, float]:
    """Codes learn ``learned``; the mean squared error of ``judged`` and the perplexity there as a part of all codes."""
    quantizer, generator = started(learned if placed_on is None else placed_on, live, codes=live), seeded(1)
    for step in range(300):
        batch = learned[torch.randint(len(learned), (2000,), generator=generator)]
        quantizer.follow(batch, nearest_code(batch, quantizer.live_embedding))
        if step % 10 == 0 and step < 240:
            quantizer.restart_idle(batch, generator, idle)
    won = nearest_code(judged, quantizer.live_embedding)
    error = float((judged - quantizer.live_embedding[won]).square().mean())
    return error, perplexity(torch.bincount(won, minlength=live)) / live


def test_moving_idle_codes_follows_an_encoder_that_learned_on():
    first, later, new = (torch.randn(20_000, 4, generator=seeded(seed)) for seed in (2, 3, 4))
    for vectors in (later, new):  # by now most latents lie in one place
        vectors[:15_000] = 2 + 0.5 * vectors[:15_000]
    seldom, often = (error_and_evenness(later, new, 256, idle, placed_on=first) for idle in (0.1, 0.4))
    assert often[0] < 0.9 * seldom[0] and often[1] > 2 * seldom[1]


def test_codes_find_what_an_empty_background_hides():
    rest = torch.randn(4000, 4, generator=seeded(2))
    most_alike = torch.cat([rest, torch.full((16_000, 4), 3.0)])
    left_alone, moved = (error_and_evenness(most_alike, rest, 64, idle)[0] for idle in (0.0, 0.4))
    assert moved < 0.75 * left_alone


def test_keep_only_looks_up_the_kept_codes_as_before():
    vectors = torch.randn(300, 4, generator=seeded())
    quantizer = started(vectors, live=32)
    z = vectors[:64].reshape(1, 8, 8, 4).permute(0, 3, 1, 2)
    quantised, _, (_, _, indices) = quantizer(z)
    used = torch.zeros(32, dtype=torch.bool)
    used[indices.unique()] = True
    assert quantizer.keep_only(used) == int(used.sum()) == int(quantizer.live)
    again, _, (_, _, renamed) = quantizer(z)
    assert torch.equal(again, quantised)
    assert int(renamed.max()) < int(used.sum())


def test_gradient_passes_straight_through():
    quantizer = started(torch.randn(100, 4, generator=seeded()), live=16)
    z = torch.randn(2, 4, 5, 3, generator=seeded(2), requires_grad=True)
    weight = torch.randn(2, 4, 5, 3, generator=seeded(3))
    quantised, _, (_, _, indices) = quantizer(z)
    (gradient,) = torch.autograd.grad((quantised * weight).sum(), z)
    assert torch.equal(gradient, weight)
    assert indices.shape == (2, 5, 3)
    torch.testing.assert_close(quantised[1, :, 4, 2], quantizer.embedding.weight[indices[1, 4, 2]])


def test_commitment_is_beta_times_squared_distance_and_pulls_the_encoder_alone():
    quantizer = started(torch.randn(100, 4, generator=seeded()), live=16)
    z = torch.randn(2, 4, 3, 3, generator=seeded(2), requires_grad=True)
    quantised, loss, _ = quantizer(z)
    difference = (z - quantised).detach()
    torch.testing.assert_close(loss, 0.25 * difference.square().mean())
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, 0.25 * 2 * difference / difference.numel())
    assert not quantizer.embedding.weight.requires_grad


def test_latents_pass_unchanged_until_the_codebook_is_placed():
    z = torch.randn(2, 4, 3, 3, generator=seeded())
    quantised, loss, _ = SpectrogramQuantizer(16, 4)(z)
    assert torch.equal(quantised, z) and loss == 0


def test_perplexity_is_the_number_of_codes_in_even_use():
    assert perplexity(torch.full((37,), 5)) == pytest.approx(37)
    assert perplexity(torch.tensor([0, 9, 0])) == pytest.approx(1)
    assert perplexity(torch.tensor([3, 3, 0, 0])) == pytest.approx(2)
    share = [0.5, 0.25, 0.25]
    entropy = -sum(p * math.log(p) for p in share)
    assert perplexity(torch.tensor([2, 1, 1])) == pytest.approx(math.exp(entropy))


def test_a_shifted_cluster_collapses_the_default_codebook_but_not_this_one():
    """Encoder outputs lie far from +-1/K, where diffusers' codes start: one or a few of them win everything."""
    torch.manual_seed(0)
    vectors = torch.tensor([2.0, -1.0, 0.5, 3.0]) + 0.3 * torch.randn(8192, 4, generator=seeded())
    default = VectorQuantizer(256, 4, beta=0.25, legacy=False)
    collapsed = torch.bincount(nearest_code(vectors, default.embedding.weight), minlength=256)
    assert int((collapsed > 0).sum()) < 0.1 * 256
    own = torch.bincount(nearest_code(vectors, started(vectors, 256, 256).live_embedding), minlength=256)
    assert int((own > 0).sum()) > 0.95 * 256
    assert perplexity(own) > 0.6 * 256
