"""Episode returns and their summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.spec import EnvSpec, Float32

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def episode_returns(spec: EnvSpec, rewards: Float32, starts: NDArray[Any]) -> tuple[Float32, Float32]:
    """Compute undiscounted returns (team [episodes], per agent [episodes, N]) from rewards [steps, N].

    Sums are in float64. Always use this function, so that stored returns can be checked for equality.
    ``starts`` [episodes] are the episodes' first steps; no episode may be empty.
    """
    agents = np.add.reduceat(rewards.astype(np.float64), starts, axis=0)
    return spec.team(agents).astype(np.float32), agents.astype(np.float32)


def summary(values: NDArray[Any]) -> dict[str, Any]:
    """Return mean, standard deviation and quantiles (including minimum and maximum) of a vector."""
    exact = np.asarray(values, np.float64)
    quantiles = np.quantile(exact, QUANTILES)
    return {
        "mean": float(exact.mean()),
        "std": float(exact.std()),
        "quantiles": {str(q): float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
    }


def returns_summary(names: Sequence[str], team: NDArray[Any], agents: NDArray[Any]) -> dict[str, Any]:
    """Return ``{"team": summary, "agents": {name: summary}}`` for returns [episodes] and [episodes, N]."""
    return {"team": summary(team), "agents": {name: summary(agents[:, i]) for i, name in enumerate(names)}}
