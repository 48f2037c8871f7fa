"""Complex baseband echo of moving scatterers: radar equation, Doppler phase, noise, static clutter."""

from __future__ import annotations

import numpy as np


def baseband_echo(distance: np.ndarray, amplitude: np.ndarray, wavelength: float) -> np.ndarray:
    """Slow-time samples of a monostatic radar: one coherent sum over the scatterers.

    s(t) = sum_k lambda / (4 pi)^(3/2) sqrt(sigma_k) / R_k^2 exp(-j 4 pi R_k / lambda), which is the radar
    equation with unit transmitted power and antenna gain (Skolnik, Introduction to Radar Systems): received
    power falls with R^-4, and a scatterer that approaches with v turns at +2 v / lambda.

    Args:
        distance: (S, N) from the antenna, in metres.
        amplitude: (S, N) square root of the cross section in m^2; may be signed.
        wavelength: in metres.

    Returns:
        (N,) complex128.
    """
    echo = np.zeros(distance.shape[1], dtype=np.complex128)
    # One scatterer at a time stays in the processor's cache: half the time of all of them at once.
    for path, root_rcs in zip(distance, amplitude, strict=True):
        strength = root_rcs / path**2
        # The phase runs over thousands of turns: whole turns go in float64, then single precision will do.
        turns = 2.0 / wavelength * path
        turns -= np.round(turns)
        angle = np.float32(-2.0 * np.pi) * turns.astype(np.float32)
        echo.real += strength * np.cos(angle)
        echo.imag += strength * np.sin(angle)
    return wavelength / (4.0 * np.pi) ** 1.5 * echo


def mean_power(iq: np.ndarray) -> float:
    """Mean of |iq|^2 over slow time."""
    return float(np.mean(iq.real**2 + iq.imag**2))


def white_noise(power: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Receiver noise: (samples,) complex, white, circular Gaussian, of the given mean power."""
    parts = rng.standard_normal((2, samples)) * np.sqrt(power / 2.0)
    return parts[0] + 1j * parts[1]


def static_clutter(power: float, rng: np.random.Generator) -> complex:
    """A motionless reflector's contribution to every sample: the given power, at a random phase."""
    return complex(np.sqrt(power) * np.exp(2j * np.pi * rng.uniform()))
