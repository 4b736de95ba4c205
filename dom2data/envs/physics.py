"""Compiled 2-D particle physics of the published offline datasets (OMAR's variant of MPE).

The variant differs from MPE2 in three ways that change every number: velocity is damped, accelerated and
capped before it moves the particle; the action is multiplied by the acceleration twice; and the action is a
force in [-1, 1]^2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dom2_policies.compiled import compiled
from dom2data.spec import Float32

Float64 = NDArray[np.float64]

DT = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
PHYSICS = {
    "dt": DT,
    "damping": DAMPING,
    "contact_force": CONTACT_FORCE,
    "contact_margin": CONTACT_MARGIN,
    "mass": 1.0,
    "integration": "damp-push-cap-move",
}

_TOGETHER = 256
"""rows processed together, so that positions and forces stay in the CPU cache for all pairs of bodies"""


@cache
def advancer(n_learn: int, n_prey: int, n_landmarks: int) -> Callable[..., None]:
    """Return the step function, compiled for these numbers of agents, prey and colliding landmarks.

    ``advance(pos, vel, landmarks, actions, prey_actions, gain, max_speed, sizes)`` moves all E rows in place:
    pos, vel [E,P,2], agents before prey; landmarks [E,L,2], colliding ones first; gain, max_speed [E,P];
    sizes [P+C], of agents and of colliding landmarks.

    Two bodies closer than the sum of their sizes repel with a force of
    100 k log(1 + exp((d_min - d) / k)), k = 1e-3, along the line between them.
    """
    n_agents = n_learn + n_prey
    n_bodies = n_agents + n_landmarks

    @compiled(nogil=True, error_model="numpy")
    def advance(
        pos: Float64,
        vel: Float64,
        landmarks: Float64,
        actions: Float32,
        prey_actions: Float32,
        gain: Float64,
        max_speed: Float64,
        sizes: Float64,
    ) -> None:
        # Bodies come first and rows last, so that operations on all rows of a pair are vectorised.
        x, y = np.empty((n_bodies, _TOGETHER)), np.empty((n_bodies, _TOGETHER))
        force = np.empty((_TOGETHER, n_agents, 2))
        near, touching = np.empty(_TOGETHER, np.bool_), np.empty(_TOGETHER + 1, np.int64)
        for first in range(0, pos.shape[0], _TOGETHER):
            rows = min(_TOGETHER, pos.shape[0] - first)
            for i in range(rows):
                e = first + i
                for a in range(n_learn):
                    force[i, a, 0] = actions[e, a, 0] * gain[e, a]
                    force[i, a, 1] = actions[e, a, 1] * gain[e, a]
                for a in range(n_learn, n_agents):
                    force[i, a, 0] = prey_actions[e, a - n_learn, 0] * gain[e, a]
                    force[i, a, 1] = prey_actions[e, a - n_learn, 1] * gain[e, a]
                for a in range(n_agents):
                    x[a, i], y[a, i] = pos[e, a, 0], pos[e, a, 1]
                for b in range(n_landmarks):
                    x[n_agents + b, i], y[n_agents + b, i] = landmarks[e, b, 0], landmarks[e, b, 1]
            for a in range(n_agents):
                for b in range(a + 1, n_bodies):
                    reach = sizes[a] + sizes[b]
                    far = reach + 50.0 * CONTACT_MARGIN  # beyond, the force is below 1e-20
                    count = _closer(x[a], y[a], x[b], y[b], far, rows, near, touching)
                    for i in touching[:count]:
                        dx, dy = x[a, i] - x[b, i], y[a, i] - y[b, i]
                        push = _repulsion(np.sqrt(dx * dx + dy * dy), reach)
                        force[i, a, 0] += push * dx
                        force[i, a, 1] += push * dy
                        if b < n_agents:
                            force[i, b, 0] -= push * dx
                            force[i, b, 1] -= push * dy
            last = first + rows
            _move(pos[first:last], vel[first:last], force[:rows], max_speed[first:last])

    return advance


@compiled(nogil=True, error_model="numpy")
def _closer(
    x: Float64,
    y: Float64,
    other_x: Float64,
    other_y: Float64,
    distance: float,
    rows: int,
    near: NDArray[np.bool_],
    found: NDArray[np.int64],
) -> int:
    """Find the rows (of the first ``rows``) with bodies closer than ``distance``; return their number."""
    for i in range(len(x)):
        dx, dy = x[i] - other_x[i], y[i] - other_y[i]
        near[i] = dx * dx + dy * dy < distance * distance
    count = 0
    for i in range(rows):  # without a branch, which would be mispredicted too often
        found[count] = i
        count += near[i]
    return count


@njit(inline="always", error_model="numpy")
def _repulsion(distance: float, reach: float) -> float:
    """Return the repulsive force divided by the distance."""
    return CONTACT_FORCE * CONTACT_MARGIN * _softplus((reach - distance) / CONTACT_MARGIN) / distance


@njit(inline="always", error_model="numpy")
def _softplus(x: float) -> float:
    """Return log(1 + exp(x)), in a form without overflow; far from 0 the smaller term rounds away."""
    if x > 34.0:
        return x
    if x > 0.0:
        return x + np.log1p(np.exp(-x))
    return np.log1p(np.exp(x)) if x > -38.0 else np.exp(x)


@compiled(nogil=True, error_model="numpy")
def _move(pos: Float64, vel: Float64, force: Float64, max_speed: Float64) -> None:
    """Move all particles [E,P,2] by one step in place, given their forces and largest speeds [E,P]."""
    particles = max_speed.size
    p, v, f = pos.reshape(particles, 2), vel.reshape(particles, 2), force.reshape(particles, 2)
    cap = max_speed.reshape(particles)
    for i in range(particles):
        vx = v[i, 0] * (1.0 - DAMPING) + f[i, 0] * DT
        vy = v[i, 1] * (1.0 - DAMPING) + f[i, 1] * DT
        speed = np.sqrt(vx * vx + vy * vy)
        capped_x, capped_y = vx / speed * cap[i], vy / speed * cap[i]
        vx, vy = (capped_x, capped_y) if speed > cap[i] else (vx, vy)
        v[i, 0], v[i, 1] = vx, vy
        p[i, 0] += vx * DT
        p[i, 1] += vy * DT


@njit(inline="always")
def look_around(
    pos: Float64,
    vel: Float64,
    landmarks: Float64,
    e: int,
    a: int,
    n_agents: int,
    n_landmarks: int,
    row: Float32,
) -> int:
    """Fill the start of agent a's observation: its velocity and position, then landmarks and other agents
    relative to it. Return the index after the last entry. Loops are unrolled if the numbers are constants.
    """
    x, y = pos[e, a, 0], pos[e, a, 1]
    row[0], row[1], row[2], row[3] = vel[e, a, 0], vel[e, a, 1], x, y
    k = 4
    for b in range(n_landmarks):
        row[k], row[k + 1] = landmarks[e, b, 0] - x, landmarks[e, b, 1] - y
        k += 2
    for b in range(n_agents):
        if b != a:
            row[k], row[k + 1] = pos[e, b, 0] - x, pos[e, b, 1] - y
            k += 2
    return k
