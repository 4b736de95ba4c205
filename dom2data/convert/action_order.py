"""Do an agent's actions come in the order that its environment expects? Told from what they do.

Published HalfCheetah files disagree on it (some list a leg's joints from the foot up, some from the thigh
down), and nothing but the numbers shows it. Where an action is a force, the velocity that it drives changes
with it, and more than the others: the right order is the one of highest correlation.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.convert.ingest import refused

VELOCITIES = {"tag": (0, 1), "world": (0, 1), "spread": (0, 1), "halfcheetah": (5, 3, 1)}
"""Of each action, the column of its agent's observation that holds the velocity it drives."""
_STEPS = 20_000  # enough for correlations to 0.01
_FEWEST = 200


def check_action_order(env: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """What was found, as a note. Raises UserError (code 3) when another order explains the motion better."""
    columns = VELOCITIES.get(env)
    steps = min(len(arrays["actions"]), _STEPS)
    if columns is None or steps < _FEWEST:
        return ("order of actions not checked",)
    rows = np.arange(steps) + np.searchsorted(arrays["offsets"][1:], np.arange(steps), side="right")
    obs, actions = arrays["observations"], arrays["actions"][:steps]
    change = (obs[rows + 1] - obs[rows])[..., list(columns)]
    for agent in range(actions.shape[1]):
        table = _correlations(actions[:, agent], change[:, agent])
        scores = {
            order: sum(table[a, k] for k, a in enumerate(order))
            for order in permutations(range(len(columns)))
        }
        best = max(scores, key=lambda order: scores[order])
        if best != tuple(range(len(columns))):
            raise refused(
                f"expected the actions of agent {agent} in the order of {env}, found the order {best} to "
                "explain the motion better; reorder them, or leave --env out"
            )
    return (f"order of actions agrees with the motion in {steps:,} steps",)


def _correlations(actions: NDArray[Any], change: NDArray[Any]) -> NDArray[Any]:
    """[A, A] between every action and every change of velocity; 0 where one of them is constant."""

    def standard(values: NDArray[Any]) -> NDArray[Any]:
        centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
        return centred / np.maximum(np.sqrt((centred**2).sum(axis=0)), 1e-12)

    return standard(actions).T @ standard(change)
