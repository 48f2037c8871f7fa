"""What people do in front of the radar: each activity as joint positions over time, drawn at random.

Every function takes the body, the time axis (N,) in seconds (0 in the middle of the observation) and a
seeded generator, and returns joint positions (18, N, 3) in metres in the person's own frame (x forward,
y left, z up, origin on the floor) with the truth about the movement.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

from radar.body import Body, Pose, joint_positions, pitch, stand_on_ankles
from radar.walking import Gait, both_sides, periodic_curve, running_pose, walking_cycle, walking_pose

Truth = dict[str, float | str]
Activity = Callable[[Body, np.ndarray, np.random.Generator], tuple[np.ndarray, Truth]]
DEGREE = np.pi / 180.0
GRAVITY = 9.81  # m/s^2


def smooth_step(part: np.ndarray) -> np.ndarray:
    """Minimum-jerk course from 0 to 1 over ``part`` in [0, 1] (Flash and Hogan, J. Neurosci. 5, 1985)."""
    part = np.clip(part, 0.0, 1.0)
    return part**3 * (10.0 - 15.0 * part + 6.0 * part**2)


def _there_and_back(part: np.ndarray, turn: float) -> np.ndarray:
    """0 to 1 at ``turn`` and back to 0 at 1, smoothly; 0 outside [0, 1]."""
    return smooth_step(part / turn) - smooth_step((part - turn) / (1.0 - turn))


def _start(time_s: np.ndarray, duration: float, rng: np.random.Generator) -> float:
    """When a movement of ``duration`` begins, so that all of it is seen where the observation allows."""
    slack = max(0.0, time_s[-1] - time_s[0] - duration)
    return float(time_s[0] + slack * rng.uniform(0.2, 0.8))


def _standing_root(body: Body, time_s: np.ndarray) -> np.ndarray:
    return np.broadcast_to([0.0, 0.0, body.hip_height], (time_s.size, 3))


def walking(body: Body, time_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """Steady walk; the cadence is the model's for the speed, give or take 3%."""
    speed = min(rng.uniform(0.8, 1.8), 3.0 * body.hip_height)  # where the walking model ends, for the smallest bodies
    cycle = walking_cycle(body, speed) / rng.normal(1.0, 0.03)
    gait = Gait(speed, cycle, rng.uniform(), arm_swing=rng.uniform(0.6, 1.3))
    truth: Truth = {"speed_mps": speed, "cadence_hz": gait.steps_per_second}
    return joint_positions(body, walking_pose(body, gait, time_s)), truth


def running(body: Body, time_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """A jog, slow enough that the feet stay inside +-9.4 m/s."""
    speed = rng.uniform(2.0, 2.8)
    steps = 2.3 + 0.14 * speed + rng.normal(0.0, 0.06)
    gait = Gait(speed, 2.0 / steps, rng.uniform(), arm_swing=rng.uniform(0.8, 1.2))
    truth: Truth = {"speed_mps": speed, "cadence_hz": gait.steps_per_second}
    return joint_positions(body, running_pose(body, gait, time_s)), truth


def crawling(body: Body, time_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """On hands and knees, each hand moving with the opposite knee.

    A limb on the floor sweeps back by the way that the trunk makes meanwhile, so it stays where it is.
    """
    speed, cycles = rng.uniform(0.35, 0.75), rng.uniform(0.75, 1.1)
    ground = 0.62  # part of the cycle that a limb spends on the floor
    phase = time_s * cycles + rng.uniform()
    sides = both_sides(phase)
    sweep = speed * ground / cycles / 2.0

    def swing(length: float, at: np.ndarray) -> np.ndarray:
        reach = np.arcsin(min(0.9, sweep / length))
        knots = [(part * ground / 4, reach * (1 - part / 2)) for part in range(5)]
        return periodic_curve(knots, at)

    lift = periodic_curve([(0.0, 0.0), (ground, 0.0), ((1 + ground) / 2, 1.0)], sides)
    root = np.zeros((time_s.size, 3))
    root[:, 0] = speed * time_s
    root[:, 1] = 0.03 * np.sin(2 * np.pi * phase)
    root[:, 2] = body.thigh + 0.01 * np.cos(4 * np.pi * phase)
    arm = body.upper_arm + body.forearm
    opposite = sides[::-1]
    pose = Pose(
        root=root,
        trunk_pitch=(84.0 + 3.0 * np.sin(4 * np.pi * phase)) * DEGREE,
        trunk_yaw=6.0 * DEGREE * np.sin(2 * np.pi * phase),
        hip=swing(body.thigh, sides),
        knee=(90.0 + 14.0 * lift) * DEGREE + swing(body.thigh, sides),
        ankle=-60.0 * DEGREE,
        shoulder=84.0 * DEGREE + swing(arm, opposite) - 0.2 * lift[::-1],
        elbow=0.5 * lift[::-1],
    )
    return joint_positions(body, pose), {"speed_mps": speed, "cadence_hz": cycles}


def _chair_pose(body: Body, time_s: np.ndarray, seated: np.ndarray, lean: np.ndarray, shin: np.ndarray) -> Pose:
    """Between standing (``seated`` 0) and sitting (1), in the plane of the body, feet on the floor."""
    thigh = 86.0 * DEGREE * seated
    return Pose(
        root=_standing_root(body, time_s),
        trunk_pitch=lean,
        hip=thigh,
        knee=thigh + shin,
        ankle=shin,
        shoulder=0.4 * seated + 0.3 * lean,
        elbow=0.2 + 0.9 * seated,
    )


def sitting_down(body: Body, time_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """The trunk leans forward, hips go back and down, and the trunk comes upright on the chair."""
    duration = rng.uniform(0.9, 1.4)
    part = (time_s - _start(time_s, duration, rng)) / duration
    lean = rng.uniform(28.0, 42.0) * _there_and_back(part, 0.45) - 6.0 * smooth_step(part)
    shin = 14.0 * DEGREE * _there_and_back(part, 0.5)
    pose = _chair_pose(body, time_s, smooth_step((part - 0.08) / 0.82), lean * DEGREE, shin)
    return stand_on_ankles(joint_positions(body, pose)), {"movement_s": duration}


def standing_up(body: Body, time_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """The trunk swings forward first, and its momentum then lifts the hips off the chair."""
    duration = rng.uniform(0.9, 1.4)
    part = (time_s - _start(time_s, duration, rng)) / duration
    lean = rng.uniform(30.0, 45.0) * _there_and_back(part, 0.42) - 6.0 * (1.0 - smooth_step(part))
    shin = 16.0 * DEGREE * _there_and_back(part, 0.48)
    pose = _chair_pose(body, time_s, 1.0 - smooth_step((part - 0.25) / 0.75), lean * DEGREE, shin)
    return stand_on_ankles(joint_positions(body, pose)), {"movement_s": duration}


def tipping_angle(length: float, first: float, since: np.ndarray) -> tuple[np.ndarray, float]:
    """A rod that tips over its foot: its angle from upright over time, and when it meets the floor.

    theta'' = 3 g / (2 L) sin(theta), from rest at ``first`` radians; it stays on the floor at 90 degrees.

    Returns:
        The angle (N,) in radians at the times ``since`` (N,) in seconds, and the fall's duration.
    """

    def on_floor(_: float, state: np.ndarray) -> float:
        return state[0] - np.pi / 2

    on_floor.terminal = True
    solution = solve_ivp(
        lambda _, state: [state[1], 1.5 * GRAVITY / length * np.sin(state[0])],
        (0.0, 30.0),
        [first, 0.0],
        events=on_floor,
        dense_output=True,
        rtol=1e-6,
        atol=1e-8,
    )
    duration = float(solution.t[-1])
    return solution.sol(np.clip(since, 0.0, duration))[0], duration


def falling(body: Body, time_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """Someone stands, tips over like a rod on its foot with arms thrown out, and lies still."""
    first = rng.uniform(0.06, 0.14)
    forward = rng.uniform() < 0.65
    _, duration = tipping_angle(body.height, first, np.zeros(1))
    start = _start(time_s, duration, rng)
    angle, _ = tipping_angle(body.height, first, time_s - start)
    part = (time_s - start) / duration
    # The balance is lost smoothly before gravity alone takes over.
    angle = angle - first * (1.0 - smooth_step((time_s - start + 0.5) / 0.5))
    buckle = rng.uniform(10.0, 30.0) * DEGREE * _there_and_back(part, 0.6)
    pose = Pose(
        root=_standing_root(body, time_s),
        trunk_pitch=0.8 * buckle if forward else -0.2 * buckle,
        hip=buckle,
        knee=1.6 * buckle,
        shoulder=rng.uniform(70.0, 120.0) * DEGREE * smooth_step((part - 0.45) / 0.4),
        elbow=0.3,
        arm_abduction=0.25,
    )
    joints = stand_on_ankles(joint_positions(body, pose))
    joints = pitch(joints, angle if forward else -angle)
    return joints, {"movement_s": duration, "direction": "forward" if forward else "backward"}


def boxing(body: Body, time_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """Straight punches, left and right in turn: out fast, back to the guard more slowly."""
    rate = rng.uniform(1.5, 2.4)  # punches per second, both arms together
    phase = time_s * rate / 2.0 + rng.uniform()
    out, back = 0.17 * rate / 2.0, 0.30 * rate / 2.0
    sides = both_sides(phase)
    punch = smooth_step(sides / out) - smooth_step((sides - out) / back)
    reach = rng.uniform(0.85, 1.0)
    twist = 16.0 * DEGREE * (punch[1] - punch[0])
    root = np.array(_standing_root(body, time_s))
    root[:, 0] += 0.02 * np.sin(2 * np.pi * phase)
    root[:, 2] -= 0.05
    pose = Pose(
        root=root,
        trunk_pitch=8.0 * DEGREE,
        trunk_yaw=twist,
        pelvis_yaw=0.4 * twist,
        hip=np.array([[24.0], [-8.0]]) * DEGREE,
        knee=np.array([[26.0], [18.0]]) * DEGREE,
        shoulder=(22.0 + 66.0 * reach * punch) * DEGREE,
        elbow=(125.0 - 118.0 * reach * punch) * DEGREE,
    )
    return joint_positions(body, pose), {"cadence_hz": rate}


def arm_waving(body: Body, time_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """One or both straight arms swing up and down in front of the body."""
    rate = rng.uniform(0.7, 1.2)
    middle, swing = rng.uniform(45.0, 70.0) * DEGREE, rng.uniform(45.0, 65.0) * DEGREE
    style = str(rng.choice(["left", "right", "both", "in turn"]))
    angle = middle + swing * np.sin(2 * np.pi * (time_s * rate + rng.uniform()))
    opposite = 2.0 * middle - angle
    hanging = np.full_like(angle, 0.05)
    left, right = {
        "left": (angle, hanging),
        "right": (hanging, angle),
        "both": (angle, angle),
        "in turn": (angle, opposite),
    }[style]
    pose = Pose(
        root=_standing_root(body, time_s),
        trunk_pitch=0.02 * np.sin(2 * np.pi * time_s * rate),
        shoulder=np.stack([left, right]),
        elbow=0.15,
    )
    return joint_positions(body, pose), {"cadence_hz": rate, "direction": style}


def breathing(body: Body, time_s: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """Standing still: the chest rises by some millimetres, the heart beats, and the body sways."""
    rate, depth = rng.uniform(0.2, 0.4), rng.uniform(0.004, 0.010)
    heart = rng.uniform(1.0, 1.5)
    turns = rng.uniform(0.0, 2 * np.pi, size=4)
    chest = depth * np.sin(2 * np.pi * rate * time_s + turns[0])
    chest = chest + 0.0003 * np.sin(2 * np.pi * heart * time_s + turns[1])
    pose = Pose(root=_standing_root(body, time_s), shoulder=0.05, elbow=0.15, chest=chest)
    sway = 0.004 * np.sin(2 * np.pi * 0.35 * time_s + turns[2]) / body.height
    joints = pitch(stand_on_ankles(joint_positions(body, pose)), sway)
    return joints, {"cadence_hz": rate}


PEOPLE: dict[str, Activity] = {
    "walking": walking,
    "running": running,
    "crawling": crawling,
    "sitting_down": sitting_down,
    "standing_up": standing_up,
    "falling": falling,
    "boxing": boxing,
    "arm_waving": arm_waving,
    "breathing": breathing,
}
