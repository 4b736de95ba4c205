"""Returns of episodes and their summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.spec import EnvSpec, Float32

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def episode_returns(spec: EnvSpec, rewards: Float32, starts: NDArray[Any]) -> tuple[Float32, Float32]:
    """Undiscounted returns (team [episodes], per agent [episodes, N]) of rewards [steps, N].

    Summed in float64, always by this function, so that a stored return can be checked for equality.
    ``starts`` [episodes] are the episodes' first steps; none may be empty.
    """
    agents = np.add.reduceat(rewards.astype(np.float64), starts, axis=0)
    return spec.team(agents).astype(np.float32), agents.astype(np.float32)


def summary(values: NDArray[Any]) -> dict[str, Any]:
    """Mean, standard deviation, and quantiles (minimum and maximum among them) of a vector."""
    exact = np.asarray(values, np.float64)
    quantiles = np.quantile(exact, QUANTILES)
    return {
        "mean": float(exact.mean()),
        "std": float(exact.std()),
        "quantiles": {str(q): float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
    }


def returns_summary(names: Sequence[str], team: NDArray[Any], agents: NDArray[Any]) -> dict[str, Any]:
    """``{"team": summary, "agents": {name: summary}}`` of returns [episodes] and [episodes, N]."""
    return {"team": summary(team), "agents": {name: summary(agents[:, i]) for i, name in enumerate(names)}}
