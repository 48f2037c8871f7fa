"""Human walking after Boulic, N. M. Thalmann and D. Thalmann (1990), and running after Novacheck (1998).

R. Boulic, N. Magnenat Thalmann, D. Thalmann, "A global human walking model with real-time kinematic
personification", The Visual Computer 6, 344-358, 1990: twelve trajectories as functions of the speed in hip
heights per second. V. C. Chen, The Micro-Doppler Effect in Radar, builds its walking signatures on it.
T. F. Novacheck, "The biomechanics of running", Gait & Posture 7, 77-95, 1998: joint angles of a runner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from radar.body import Body, Pose


@dataclass(frozen=True)
class Gait:
    """One person's way to walk or run.

    Attributes:
        speed: mean speed in m/s.
        cycle_s: duration of one cycle (two steps) in seconds.
        phase: place in the cycle at time 0, in [0, 1); 0 is the right heel's strike.
        arm_swing: factor on the arms' swing.
    """

    speed: float
    cycle_s: float
    phase: float
    arm_swing: float = 1.0

    @property
    def steps_per_second(self) -> float:
        return 2.0 / self.cycle_s


def periodic_curve(knots: Sequence[tuple[float, float]], phase: np.ndarray) -> np.ndarray:
    """A smooth curve of period 1 through (phase, value) knots, by shape-preserving cubic pieces."""
    at, value = (np.array(column) for column in zip(*sorted((x % 1.0, y) for x, y in knots), strict=True))
    curve = PchipInterpolator(np.concatenate([at - 1.0, at, at + 1.0]), np.tile(value, 3))
    return curve(phase % 1.0)


def both_sides(phase: np.ndarray) -> np.ndarray:
    """Cycle phase (2, N) of the left and the right side, half a cycle apart."""
    return np.stack([phase + 0.5, phase]) % 1.0


def walking_cycle(body: Body, speed: float) -> float:
    """Duration in seconds of a walking cycle (two steps): 1.346 sqrt(RV) hip heights at RV per second."""
    relative = speed / body.hip_height
    return 1.346 / math.sqrt(relative)


def _hip(rv: float, phase: np.ndarray) -> np.ndarray:
    if rv < 0.5:
        knots = [(0.5, -30.0 * rv), (0.9, 50.0 * rv)]
    elif rv < 1.3:
        knots = [(0.5, -15.0), (0.9, 25.0)]
    else:
        fast = (rv - 1.3) / 1.7
        knots = [(0.2 * fast - 0.1, 5.0 * fast + 25.0), (0.5, -15.0), (0.9, 6.0 * fast + 25.0)]
        if fast < 1e-6:
            knots = knots[1:]
    return periodic_curve(knots, phase)


def _knee(rv: float, phase: np.ndarray) -> np.ndarray:
    fast = max(0.0, (rv - 1.3) / 1.7)
    swing = 140.0 * rv if rv < 0.5 else 70.0 - 5.0 * fast
    knots = [
        (0.17 - 0.05 * fast, 3.0 + 22.0 * fast),
        (0.4, 3.0),
        (0.75 - 0.05 * fast, swing),
        (1.0 - 0.03 * fast, 3.0 + 3.0 * fast),
    ]
    return periodic_curve(knots, phase)


def _ankle(rv: float, support: float, phase: np.ndarray) -> np.ndarray:
    slow, fast = min(rv, 0.5), max(0.0, (rv - 1.3) / 1.7)
    knots = [
        (0.0, -3.0 + 5.0 * fast),
        (0.08, -30.0 * slow - 3.0 + 4.0 * fast),
        (0.5 - 0.1 * fast, 22.0 * slow - 3.0 - 3.0 * fast),
        (support, -34.0 * slow - 3.0 - 8.0 * fast),
        (0.85, -3.0 + 5.0 * fast),
    ]
    return periodic_curve(knots, phase)


def _elbow(rv: float, phase: np.ndarray) -> np.ndarray:
    if rv < 0.5:
        knots = [(0.05, 6.0 * rv + 3.0), (0.5, 34.0 * rv + 3.0), (0.9, 10.0 * rv + 3.0)]
    elif rv < 1.3:
        part = (rv - 0.5) / 0.8
        knots = [(0.05, 8.0 * part + 6.0), (0.5 + 0.01 * part, 24.0 * part + 20.0), (0.9, 9.0 * part + 8.0)]
    else:
        fast = (rv - 1.3) / 1.7
        knots = [
            (0.05, 14.0 - 6.0 * fast),
            (0.51 + 0.04 * fast, 44.0 + 26.0 * fast),
            (0.9 - 0.1 * fast, 17.0 - 6.0 * fast),
        ]
    return periodic_curve(knots, phase)


def _pelvis_roll(rv: float, phase: np.ndarray) -> np.ndarray:
    """The pelvis drops on the side of the swinging leg: four half cosines, quick down and slow back."""
    drop = np.where(
        phase % 0.5 < 0.15,
        1.0 - np.cos(2.0 * np.pi * 10.0 / 3.0 * (phase % 0.5)),
        1.0 + np.cos(2.0 * np.pi * 10.0 / 7.0 * (phase % 0.5 - 0.15)),
    )
    return np.where(phase < 0.5, -1.0, 1.0) * 1.66 * rv * drop


def walking_pose(body: Body, gait: Gait, time_s: np.ndarray) -> Pose:
    """The Boulic model's pose over time; the body passes x = 0 at time 0.

    Args:
        time_s: (N,) in seconds.

    Raises:
        ValueError: a speed outside the model's range, which ends at 3 hip heights per second.
    """
    rv = gait.speed / body.hip_height
    if not 0.0 < rv <= 3.0:
        raise ValueError(f"{gait.speed} m/s is {rv:.2f} hip heights per second: the walking model ends at 3")
    phase = (time_s / gait.cycle_s + gait.phase) % 1.0
    sides = both_sides(phase)
    model_cycle = walking_cycle(body, gait.speed)
    support = (0.752 * model_cycle - 0.143) / model_cycle
    slow = min(rv, 0.5)

    # Offsets of the spine's origin, in hip heights.
    rise = 0.015 * rv
    vertical = -rise + rise * np.sin(2 * np.pi * (2 * phase - 0.35))
    lateral = (0.128 * slow**2 - 0.128 * slow) * np.sin(2 * np.pi * (phase - 0.1))
    surge = (0.084 * slow**2 - 0.084 * slow) * np.sin(2 * np.pi * (2 * phase + 2 * (0.625 - support)))
    root = np.stack([surge, lateral, 1.0 + vertical], axis=-1) * body.hip_height
    root[:, 0] += gait.speed * time_s

    nod = -8.0 * slow**2 + 8.0 * slow
    twist = [(0.1, 4 / 3 * rv), (0.4, -4.5 / 3 * rv), (0.6, -4 / 3 * rv), (0.9, 4.5 / 3 * rv)]
    swing = 9.88 * rv * gait.arm_swing
    degrees = np.pi / 180.0
    return Pose(
        root=root,
        pelvis_roll=_pelvis_roll(rv, phase) * degrees,
        pelvis_yaw=4.0 * rv * np.cos(2 * np.pi * phase) * degrees,
        trunk_pitch=(nod - nod * np.sin(2 * np.pi * (2 * phase - 0.1))) * degrees,
        trunk_yaw=periodic_curve(twist, phase) * -degrees,
        hip=_hip(rv, sides) * degrees,
        knee=_knee(rv, sides) * degrees,
        ankle=_ankle(rv, support, sides) * degrees,
        shoulder=(3.0 - swing / 2 - swing * np.cos(2 * np.pi * sides)) * degrees,
        elbow=_elbow(rv, sides) * degrees,
    )


# Joint angles in degrees over the cycle (0: heel strike, toe off near 0.38), at about 3 m/s: the turning
# points of the published mean curves, rounded.
_RUN_HIP = [(0.0, 32.0), (0.12, 28.0), (0.38, -8.0), (0.43, -8.0), (0.78, 42.0), (0.90, 42.0)]
_RUN_KNEE = [(0.0, 15.0), (0.14, 42.0), (0.34, 20.0), (0.62, 95.0), (0.92, 15.0)]
_RUN_ANKLE = [(0.0, 5.0), (0.18, 22.0), (0.40, -22.0), (0.65, 0.0)]


def running_pose(body: Body, gait: Gait, time_s: np.ndarray) -> Pose:
    """A runner's pose over time: a flight phase after each step, elbows bent, trunk leaning forward.

    The hip's swing grows with the stride so that the foot on the ground hardly slides.
    """
    phase = (time_s / gait.cycle_s + gait.phase) % 1.0
    sides = both_sides(phase)
    stride = gait.speed * gait.cycle_s / (2.42 * body.hip_height)  # 1 where the knots' angles fit
    degrees = np.pi / 180.0
    root = np.zeros((time_s.size, 3))
    # The body is lowest in mid-stance and slowest shortly before it; one such cycle per step.
    root[:, 0] = gait.speed * time_s + 0.012 * np.sin(4 * np.pi * (phase - 0.1))
    root[:, 2] = body.hip_height * (0.97 - 0.045 * np.cos(4 * np.pi * (phase - 0.16)))
    swing = 38.0 * gait.arm_swing
    return Pose(
        root=root,
        pelvis_yaw=8.0 * np.cos(2 * np.pi * phase) * degrees,
        trunk_pitch=(9.0 + 2.0 * np.cos(4 * np.pi * (phase - 0.2))) * degrees,
        trunk_yaw=-12.0 * np.cos(2 * np.pi * phase) * degrees,
        hip=stride * periodic_curve(_RUN_HIP, sides) * degrees,
        knee=periodic_curve(_RUN_KNEE, sides) * degrees,
        ankle=periodic_curve(_RUN_ANKLE, sides) * degrees,
        shoulder=-(8.0 + swing * np.cos(2 * np.pi * sides)) * degrees,
        elbow=(90.0 - 18.0 * np.cos(2 * np.pi * sides)) * degrees,
    )
