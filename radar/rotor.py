"""Rotating blades: a multi-rotor drone's body, hubs and blades as scatterers.

The line blade's echo is the closed form of V. C. Chen, The Micro-Doppler Effect in Radar, ch. 3: in the far
field a uniform blade of length L, with u the cosine between blade and line of sight, returns
L exp(-j 4 pi/lambda (R - u L/2)) sinc(4 pi/lambda u L/2): a scatterer at mid-blade whose amplitude flashes
when the blade is square to the line of sight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Truth = dict[str, float | str]
RATE_SPREAD = 0.015  # relative differences between the rotors of a hovering drone
HULL_RCS = 0.01  # m^2, a small plastic drone


@dataclass(frozen=True)
class Rotor:
    """One rotor turning about the vertical.

    Attributes:
        offset: (x, y, z) of the hub from the target's centre, in metres.
        rate_hz: revolutions per second; negative turns clockwise seen from above.
        phase: angle of the first blade at time 0, in radians.
        blades: number of blades.
        hub_radius: where the metal blade grips are, in metres from the axis.
        blade_length: from the axis to the tip, in metres.
        blade_rcs: cross section of a blade square to the line of sight, in m^2.
        hub_rcs: cross section of one blade grip, in m^2.
    """

    offset: tuple[float, float, float]
    rate_hz: float
    phase: float
    blades: int
    hub_radius: float
    blade_length: float
    blade_rcs: float
    hub_rcs: float

    @property
    def flash_rate_hz(self) -> float:
        """How often a blade is square to the line of sight while it comes towards it: blades x rate."""
        return self.blades * abs(self.rate_hz)


def rotor_scatterers(
    rotor: Rotor, centre: np.ndarray, time_s: np.ndarray, radar: np.ndarray, wavelength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Blades and blade grips of one rotor, as scatterers.

    Args:
        centre: (N, 3) the target's centre over time, in metres.
        time_s: (N,) in seconds.
        radar: (3,) the antenna's position in metres.
        wavelength: in metres; the flash is narrower where it is shorter.

    Returns:
        distance: (2 B, N) from the antenna in metres: B mid-blades, then B grips.
        amplitude: (2 B, N), signed: the square root of the cross section in m^2 times the flash's sinc.
    """
    start = rotor.phase + 2.0 * np.pi * np.arange(rotor.blades)[:, None] / rotor.blades
    angle = start + 2.0 * np.pi * rotor.rate_hz * time_s
    arm = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)  # (B, N, 3)
    hub = centre + np.array(rotor.offset)
    sight = radar - hub
    sight = sight / np.linalg.norm(sight, axis=-1, keepdims=True)
    along = np.einsum("bnk,nk->bn", arm, sight)
    half = rotor.blade_length / 2.0
    # numpy's sinc(x) is sin(pi x) / (pi x)
    flash = np.sqrt(rotor.blade_rcs) * np.sinc(4.0 * half / wavelength * along)
    grip = np.full_like(flash, np.sqrt(rotor.hub_rcs))
    positions = np.concatenate([hub + half * arm, hub + rotor.hub_radius * arm])
    return np.linalg.norm(positions - radar, axis=-1), np.concatenate([flash, grip])


def draw_drone(rng: np.random.Generator) -> tuple[list[Rotor], Truth]:
    """A quadrotor at random: size, blade number and rates.

    The rotors at the ends of a diagonal turn the same way. Big rotors turn slowly: in hover the tip speed is
    near 55 m/s whatever the size. Plastic blades return little; the metal grips and motor bells near the axis
    move slowly enough for a radar made for people, and draw the lines at multiples of the flash rate.
    """
    length = rng.uniform(0.10, 0.17)
    blades = int(rng.choice([2, 2, 3]))
    rate = rng.uniform(48.0, 58.0) / (2.0 * np.pi * length)
    arm = 1.35 * length
    corners = [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)]
    rotors = [
        Rotor(
            offset=(x * arm, y * arm, 0.05),
            rate_hz=turn * rate * (1.0 + rng.normal(0.0, RATE_SPREAD)),
            phase=rng.uniform(0.0, 2.0 * np.pi),
            blades=blades,
            hub_radius=rng.uniform(0.10, 0.13) * length,
            blade_length=length,
            blade_rcs=1.5e-3,
            hub_rcs=8e-4,
        )
        for x, y, turn in corners
    ]
    return rotors, {"rotor_rate_hz": rate, "blades": blades}


def drone(
    time_s: np.ndarray, rng: np.random.Generator, wavelength: float, radar: np.ndarray, ground_range: float
) -> tuple[np.ndarray, np.ndarray, Truth]:
    """A quadrotor that hovers or flies slowly, some metres above the radar.

    Returns:
        distance: (S, N) from the antenna in metres, the hull first; the drone is over the point
            (ground_range, 0) at time 0.
        amplitude: (S, N), signed.
        truth: speed, aspect, altitude, rotor rate and blades.
    """
    rotors, truth = draw_drone(rng)
    heading, speed = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.0, 2.5)
    altitude = float(radar[2] + rng.uniform(1.0, 5.0))
    centre = np.empty((time_s.size, 3))
    centre[:, 0] = ground_range + speed * np.cos(heading) * time_s
    centre[:, 1] = speed * np.sin(heading) * time_s
    centre[:, 2] = altitude
    shake = rng.uniform(0.0, 2.0 * np.pi, size=3)
    centre += 0.01 * np.sin(2.0 * np.pi * 1.1 * time_s[:, None] + shake)
    to_hull = np.linalg.norm(centre - radar, axis=-1)[None]
    parts = [rotor_scatterers(rotor, centre, time_s, radar, wavelength) for rotor in rotors]
    hull = np.full_like(to_hull, np.sqrt(HULL_RCS))
    distance = np.concatenate([to_hull, *(part[0] for part in parts)])
    amplitude = np.concatenate([hull, *(part[1] for part in parts)])
    aspect = float(np.degrees(abs(np.pi - heading)))
    return distance, amplitude, truth | {"speed_mps": speed, "aspect_deg": aspect, "altitude_m": altitude}
