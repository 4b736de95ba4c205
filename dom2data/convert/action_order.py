"""Check from their effects whether an agent's actions are in the order that its environment expects.

Published HalfCheetah files differ in this (some list a leg's joints from the foot up, some from the thigh
down), and only the numbers show it. An action is a force that affects one velocity more than the others; in
the right order, every action drives its own velocity.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.convert.ingest import refused

VELOCITIES = {"tag": (0, 1), "world": (0, 1), "spread": (0, 1), "halfcheetah": (5, 3, 1)}
"""For each action, the column of its agent's observation with the velocity that it drives."""
_STEPS = 20_000  # enough for the check, which takes a fraction of a second
_FEWEST = 200


def check_action_order(env: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Return the finding as a note. Raises UserError (code 3) if another order explains the motion better."""
    columns = VELOCITIES.get(env)
    steps = min(len(arrays["actions"]), _STEPS)
    if columns is None or steps < _FEWEST:
        return ("order of actions not checked",)
    rows = np.arange(steps) + np.searchsorted(arrays["offsets"][1:], np.arange(steps), side="right")
    obs, actions = arrays["observations"], arrays["actions"][:steps]
    change = (obs[rows + 1] - obs[rows])[..., list(columns)]
    for agent in range(actions.shape[1]):
        effects = _effects(actions[:, agent], obs[rows, agent], change[:, agent])
        orders = list(permutations(range(len(columns))))
        best = max(orders, key=lambda order: sum(effects[action, k] for k, action in enumerate(order)))
        if best != orders[0]:
            raise refused(
                f"expected the actions of agent {agent} in the order of {env}, found the order {best} to "
                "explain the motion better; reorder them, or leave --env out"
            )
    return (f"order of actions agrees with the motion in {steps:,} steps",)


def _effects(actions: NDArray[Any], obs: NDArray[Any], change: NDArray[Any]) -> NDArray[Any]:
    """Return [A, A]: each action's effect on each change of velocity, relative to that of all actions.

    Least squares on actions and observations together, because a policy's actions depend on observations.
    """
    known = np.concatenate([actions, obs], axis=1, dtype=np.float64)
    wanted = change - change.mean(axis=0, dtype=np.float64)
    found = np.linalg.lstsq(known - known.mean(axis=0), wanted, rcond=None)[0][: actions.shape[1]]
    return found / np.maximum(np.linalg.norm(found, axis=0), 1e-12)
