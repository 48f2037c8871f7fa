"""Symptoms of a training that goes wrong, told apart in words while there is time to act."""

from __future__ import annotations

STEEP = 4.0  # gradient penalty: the critic's slope is 3 or more where it should be 1; a sleeping critic has 1
PATIENCE = 3  # logged lines in a row: a single steep step is no divergence
COLLAPSED = 0.1  # of the live codes: fewer in even use than this
OVERFLOWS = 10  # of the fp16 scaler in a row, each of which halves its scale


class Health:
    """Looks at what the loop logs and says what it sees, each symptom once until it has gone."""

    def __init__(self) -> None:
        self._steep = 0
        self._scale: float | None = None
        self._overflows = 0
        self._collapsed = False

    def of_training(self, logged: dict[str, float]) -> list[str]:
        """Words on one logged line of training figures."""
        return [*self._critic(logged), *self._half_precision(logged)]

    def of_validation(self, figures: dict[str, float]) -> list[str]:
        """Words on held-out figures."""
        if "codes_live" not in figures:
            return []
        perplexity, live = figures["perplexity"], figures["codes_live"]
        before, self._collapsed = self._collapsed, live > 1 and perplexity < COLLAPSED * live
        if before or not self._collapsed:
            return []
        return [
            f"the codebook collapses: held-out images use {figures['codes_used']:.0f} of {live:.0f} live codes, as "
            f"evenly as {perplexity:.0f} would be. Early in a run this passes; if it stays, lower --lr, or "
            "--num_vq_embeddings"
        ]

    def _critic(self, logged: dict[str, float]) -> list[str]:
        if "gradient_penalty" not in logged:
            return []
        self._steep = self._steep + 1 if logged["gradient_penalty"] > STEEP else 0
        if self._steep != PATIENCE:
            return []
        return [
            f"the critic diverges: its gradient penalty is {logged['gradient_penalty']:.3g} and should stay near 0 "
            f"(scores {logged['critic_real']:.3g} on real images, {logged['critic_fake']:.3g} on reconstructions). "
            "Lower --disc_lr, or raise --gradient_penalty_weight"
        ]

    def _half_precision(self, logged: dict[str, float]) -> list[str]:
        scale = logged.get("fp16_scale")
        if scale is None:
            return []
        fell = self._scale is not None and scale < self._scale
        self._scale = scale
        self._overflows = self._overflows + 1 if fell else 0
        if self._overflows != OVERFLOWS:
            return []
        return [
            f"fp16 overflows: the gradients' scale fell in {OVERFLOWS} logged lines one after the other, to "
            f"{scale:.3g}. Try a lower --lr, or --mixed_precision no (on cards from RTX 30 on bf16)"
        ]
