"""Trainings that go wrong are told apart in words, once each."""

from __future__ import annotations

from training.health import Health


def critic(penalty: float) -> dict[str, float]:
    return {"gradient_penalty": penalty, "critic_real": 40.0, "critic_fake": -40.0}


def test_a_critic_that_stays_steep_diverges_and_a_sleeping_one_does_not():
    health = Health()
    told = [health.of_training(critic(penalty)) for penalty in (1.0, 9.0, 9.0, 0.1, 9.0, 9.0, 9.0, 9.0)]
    assert [len(words) for words in told] == [0, 0, 0, 0, 0, 0, 1, 0]
    assert "critic diverges" in told[6][0] and "--disc_lr" in told[6][0]


def test_few_codes_in_even_use_are_a_collapse_and_many_are_not():
    health = Health()
    healthy = {"codes_live": 1000, "codes_used": 950, "perplexity": 500.0}
    collapsed = {"codes_live": 1000, "codes_used": 300, "perplexity": 20.0}
    told = [health.of_validation(figures) for figures in (healthy, collapsed, collapsed, healthy, collapsed)]
    assert [len(words) for words in told] == [0, 1, 0, 0, 1]
    assert "300 of 1000 live codes" in told[1][0]
    assert not health.of_validation({"loss": 0.1})


def test_a_falling_fp16_scale_is_an_overflow_and_a_single_fall_is_not():
    health = Health()
    scales = [2.0**16, 2.0**15, 2.0**16, *(2.0**power for power in range(15, 4, -1))]
    told = [health.of_training({"fp16_scale": scale}) for scale in scales]
    assert sum(map(len, told)) == 1
    assert "fp16 overflows" in told[12][0] and "bf16" in told[12][0]
