"""Starting values by environment and quality; a user's own flags override them.

The paper's own values are in a lost appendix. zeta: the weight of the same conservative term in OMAR (Pan et
al. 2022), whose tables lack the two mixtures, which take the value of medium-replay (random-medium) and of
medium (medium-expert). eta: falling as the data gets better, as in Diffusion-QL (Wang et al. 2022).

Tag's row was tuned here, on medium-replay and medium alone (docs/algorithms/dom2.md has every setting tried):
zeta 0.5 throughout, because with 5 the critics are mostly penalty; eta 5 on poor data, 1 on medium.
"""

from __future__ import annotations

from typing import Any

_QUALITIES = ("random", "random-medium", "medium-replay", "medium", "medium-expert", "expert")

_ETA: dict[str, tuple[float, ...]] = {
    "spread": (10.0, 5.0, 5.0, 2.0, 1.0, 0.5),
    "tag": (10.0, 5.0, 5.0, 1.0, 1.0, 0.5),
    "world": (10.0, 5.0, 5.0, 2.0, 1.0, 0.5),
    "halfcheetah": (5.0, 2.0, 2.0, 1.0, 1.0, 0.5),
}

_ZETA: dict[str, tuple[float, ...]] = {
    "spread": (0.5, 1.0, 1.0, 5.0, 5.0, 5.0),
    "tag": (0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    "world": (0.5, 1.0, 1.0, 0.5, 2.5, 5.0),
    "halfcheetah": (1.0, 5.0, 5.0, 1.0, 5.0, 5.0),
}

# Settings of each algorithm that depend on the environment and the quality.
_TASKS: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "dom2": {"eta": _ETA, "zeta": _ZETA},
}

_ENVIRONMENT: dict[str, dict[str, Any]] = {"halfcheetah": {"gamma": 0.99, "n_steps": 10}}


def defaults(algorithm: str, env: str, quality: str | None) -> dict[str, Any]:
    """Settings for data of this kind; what is not known here is left to the algorithm's own defaults."""
    values = dict(_ENVIRONMENT.get(env, {}))
    for name, table in _TASKS.get(algorithm, {}).items():
        if quality in _QUALITIES and env in table:
            values[name] = table[env][_QUALITIES.index(quality)]
    return values
