"""A person as a jointed figure: segment lengths, joint angles to joint positions, and ellipsoid echoes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

JOINTS = (
    *("pelvis", "chest", "neck", "head"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_hand", "right_hand"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    *("left_toe", "right_toe"),
)
JOINT = {name: index for index, name in enumerate(JOINTS)}
SIDES = np.array([1.0, -1.0])  # left is +y


@dataclass(frozen=True)
class Body:
    """Lengths of the body's segments in metres."""

    height: float
    head: float
    torso: float
    half_shoulders: float
    half_hips: float
    upper_arm: float
    forearm: float
    thigh: float
    shank: float
    foot: float

    @classmethod
    def of_height(cls, height: float) -> Body:
        """Average proportions, as the walking model of Boulic et al. (1990) uses them."""
        return cls(
            height=height,
            head=0.130 * height,
            torso=0.288 * height,
            half_shoulders=0.1295 * height,
            half_hips=0.0955 * height,
            upper_arm=0.188 * height,
            forearm=0.152 * height,
            thigh=0.245 * height,
            shank=0.246 * height,
            foot=0.143 * height,
        )

    @property
    def hip_height(self) -> float:
        """Length of the straight leg in metres: the unit of length of the walking model."""
        return self.thigh + self.shank


@dataclass
class Pose:
    """Joint angles over N samples of slow time, in radians; everything left out is zero (standing).

    ``root`` (N, 3) is the pelvis in metres: x forward, y to the left, z up. ``root_pitch`` tips the whole
    figure forward about the pelvis. ``pelvis_*`` turn pelvis and legs, ``trunk_*`` all above the pelvis.
    Limb angles are (2, N) or broadcast to it, left first. ``hip`` and ``shoulder`` are positive forward,
    ``knee`` bends the shank back, ``elbow`` the forearm forward, ``ankle`` lifts the toes;
    ``arm_abduction`` lifts the arm sideways. ``chest`` (N,) is the breathing chest's way forward in metres.
    """

    root: np.ndarray
    root_pitch: np.ndarray | float = 0.0
    pelvis_roll: np.ndarray | float = 0.0
    pelvis_yaw: np.ndarray | float = 0.0
    trunk_pitch: np.ndarray | float = 0.0
    trunk_yaw: np.ndarray | float = 0.0
    hip: np.ndarray | float = 0.0
    knee: np.ndarray | float = 0.0
    ankle: np.ndarray | float = 0.0
    shoulder: np.ndarray | float = 0.0
    elbow: np.ndarray | float = 0.0
    arm_abduction: np.ndarray | float = 0.0
    chest: np.ndarray | float = 0.0


def _turn(vectors: np.ndarray, angle: np.ndarray | float, first: int, second: int) -> np.ndarray:
    """Turn (..., N, 3) vectors in the plane of two axes, from ``first`` towards ``second``."""
    if np.ndim(angle) == 0 and angle == 0.0:
        return vectors
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = vectors.copy()
    turned[..., first] = cosine * vectors[..., first] - sine * vectors[..., second]
    turned[..., second] = sine * vectors[..., first] + cosine * vectors[..., second]
    return turned


def roll(vectors: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Turn about the x axis, left side up being positive."""
    return _turn(vectors, angle, 1, 2)


def pitch(vectors: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Turn about the y axis, upright things leaning forward being positive."""
    return _turn(vectors, angle, 2, 0)


def yaw(vectors: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Turn about the z axis, to the left being positive."""
    return _turn(vectors, angle, 0, 1)


def _limb(flexion: np.ndarray, abduction: np.ndarray | float, samples: int) -> np.ndarray:
    """Unit vectors (2, N, 3) of two hanging segments swung forward, then lifted sideways."""
    direction = np.empty((2, samples, 3))
    direction[..., 0] = np.cos(abduction) * np.sin(flexion)
    direction[..., 1] = SIDES[:, None] * np.sin(abduction)
    direction[..., 2] = -np.cos(abduction) * np.cos(flexion)
    return direction


def joint_positions(body: Body, pose: Pose) -> np.ndarray:
    """Forward kinematics: joint positions (18, N, 3) in metres, in the order of ``JOINTS``."""
    samples = pose.root.shape[0]
    trunk = np.zeros((10, samples, 3))  # pelvis, chest, neck, head, shoulders, elbows, hands
    trunk[1, :, 0] = pose.chest
    trunk[1, :, 2] = body.torso / 2
    trunk[2, :, 2] = body.torso
    trunk[3, :, 2] = body.torso + body.head
    trunk[4:6, :, 1] = SIDES[:, None] * body.half_shoulders
    trunk[4:6, :, 2] = body.torso
    trunk[6:8] = trunk[4:6] + body.upper_arm * _limb(pose.shoulder, pose.arm_abduction, samples)
    forearm = _limb(np.add(pose.shoulder, pose.elbow), pose.arm_abduction, samples)
    trunk[8:10] = trunk[6:8] + body.forearm * forearm
    trunk = pitch(yaw(trunk, pose.trunk_yaw), pose.trunk_pitch)

    legs = np.zeros((8, samples, 3))  # hips, knees, ankles, toes
    shank_angle = np.subtract(pose.hip, pose.knee)
    legs[0:2, :, 1] = SIDES[:, None] * body.half_hips
    legs[2:4] = legs[0:2] + body.thigh * _limb(pose.hip, 0.0, samples)
    legs[4:6] = legs[2:4] + body.shank * _limb(shank_angle, 0.0, samples)
    legs[6:8] = legs[4:6] + body.foot * _limb(shank_angle + pose.ankle + np.pi / 2, 0.0, samples)
    legs = roll(yaw(legs, pose.pelvis_yaw), pose.pelvis_roll)
    return pitch(np.concatenate([trunk, legs]), pose.root_pitch) + pose.root


def stand_on_ankles(joints: np.ndarray) -> np.ndarray:
    """Shift the figure, sample by sample, so that the point midway between its ankles stays at the origin."""
    ankles = joints[[JOINT["left_ankle"], JOINT["right_ankle"]]].mean(axis=0)
    return joints - ankles


@dataclass(frozen=True)
class _Segment:
    """A body part between two joints, cut into ``pieces`` ellipsoids; radii in metres."""

    start: str
    end: str
    pieces: int
    depth: float
    width: float


def _pair(start: str, end: str, pieces: int, radius: float) -> tuple[_Segment, _Segment]:
    left, right = (_Segment(f"{s}_{start}", f"{s}_{end}", pieces, radius, radius) for s in ("left", "right"))
    return left, right


# Radii near those of the figure of Chen (The Micro-Doppler Effect in Radar, 2nd ed., ch. 4). A limb is several
# ellipsoids because its Doppler changes from one end to the other: one point would draw a bare line.
_SEGMENTS = (
    _Segment("pelvis", "chest", 1, 0.12, 0.17),
    _Segment("chest", "neck", 1, 0.12, 0.19),
    _Segment("neck", "head", 1, 0.09, 0.09),
    *_pair("shoulder", "elbow", 2, 0.05),
    *_pair("elbow", "hand", 3, 0.045),
    *_pair("hip", "knee", 3, 0.07),
    *_pair("knee", "ankle", 3, 0.055),
    *_pair("ankle", "toe", 1, 0.045),
)
_DEPTH = np.array([[part.depth] for part in _SEGMENTS for _ in range(part.pieces)])  # (S, 1)
_WIDTH = np.array([[part.width] for part in _SEGMENTS for _ in range(part.pieces)])


def ellipsoid_rcs(
    along: np.ndarray, across: np.ndarray, depth: np.ndarray, width: np.ndarray, half_length: np.ndarray
) -> np.ndarray:
    """Backscatter cross section of an ellipsoid in the optical region, in m^2.

    sigma = pi a^2 b^2 c^2 / (a^2 u_a^2 + b^2 u_b^2 + c^2 u_c^2)^2 with semi-axes a (depth), b (width),
    c (half length) and the line of sight's direction cosines on them (Trott, IEEE Antennas Wireless Propag.
    Lett. 6, 2007; Chen, The Micro-Doppler Effect in Radar).

    Args:
        along, across: direction cosines of the line of sight on the c and b axes.
    """
    facing = np.maximum(0.0, 1.0 - along**2 - across**2)
    spread = depth**2 * facing + width**2 * across**2 + half_length**2 * along**2
    return np.pi * (depth * width * half_length) ** 2 / spread**2


def body_scatterers(joints: np.ndarray, radar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scatterers of a person: ellipsoids along the body's segments.

    Args:
        joints: (18, N, 3) in metres, in the radar's coordinates.
        radar: (3,) position of the antenna.

    Returns:
        distance: (S, N) from the antenna in metres, the lower trunk first.
        amplitude: (S, N), the square root of each one's cross section in m^2.
    """
    centres, vectors = [], []
    for segment in _SEGMENTS:
        start, end = joints[JOINT[segment.start]], joints[JOINT[segment.end]]
        vector = (end - start) / segment.pieces
        for piece in range(segment.pieces):
            centres.append(start + (piece + 0.5) * vector)
            vectors.append(vector)
    positions, axis = np.stack(centres), np.stack(vectors)
    length = np.sqrt(np.einsum("snk,snk->sn", axis, axis))
    sight = radar - positions
    distance = np.sqrt(np.einsum("snk,snk->sn", sight, sight))
    sight /= distance[..., None]
    sideways = joints[JOINT["left_shoulder"]] - joints[JOINT["right_shoulder"]]
    sideways = sideways / np.linalg.norm(sideways, axis=-1, keepdims=True)
    along = np.einsum("snk,snk->sn", sight, axis) / length
    # A round limb has no broad side, and its axis need not be square to the shoulders.
    across = np.where(_DEPTH == _WIDTH, 0.0, np.einsum("snk,nk->sn", sight, sideways))
    return distance, np.sqrt(ellipsoid_rcs(along, across, _DEPTH, _WIDTH, length / 2))
