"""Default values by algorithm, environment and quality; a user's own flags override them.

DOM2: the paper's values are in a missing appendix. zeta is the weight of the same conservative term in OMAR
(Pan et al. 2022). OMAR's tables lack the two mixtures: random-medium takes medium-replay's value here, and
medium-expert takes medium's. eta falls as the data gets better, as in Diffusion-QL (Wang et al. 2022).

The rows of tag and spread were tuned here on medium-replay and medium alone (docs/algorithms/dom2-tuning.md
has every setting tried): eta in both, where random and random-medium take medium-replay's value; zeta in tag
is 0.5 throughout, because with 5 the penalty dominates the critics. In halfcheetah zeta is 0.1 for the same
reason, and eta was tuned likewise.

MA-CQL, OMAR: alpha and coe as published with OMAR; random-medium takes medium-replay's value, and
medium-expert one between medium's and expert's. In halfcheetah alpha was tuned on medium-replay, too, where
with the published 5 the penalty outweighs the TD error (docs/algorithms/ma-cql.md); random takes its value.
CFCQL: MA-CQL's alpha; with its published values (0.6 on tag-medium) Q diverged within a few thousand updates
at the step size of ``compact``. MA-Diffusion-QL: searched like DOM2 (docs/comparison.md#step-sizes); in tag
its own defaults did best.

A variant of a task, such as spread-6-landmarks or halfcheetah-mamujoco, uses the values of the task.
"""

from __future__ import annotations

from typing import Any

from dom2data import envs

UPDATES: dict[str, dict[str, int]] = {
    "compact": {"": 2500, "omar": 4000, "ma-sfbc": 5000, "madiff": 1500},
    "wide": {"": 100_000, "halfcheetah": 500_000, "ma-sfbc": 150_000},
}
"""Gradient updates by preset, then by algorithm (which has priority) or environment; ``""``: all others."""

_QUALITIES = ("random", "random-medium", "medium-replay", "medium", "medium-expert", "expert")

_ETA: dict[str, tuple[float, ...]] = {
    "spread": (80.0, 80.0, 80.0, 10.0, 1.0, 0.5),
    "tag": (20.0, 20.0, 20.0, 4.0, 1.0, 0.5),
    "world": (10.0, 5.0, 5.0, 2.0, 1.0, 0.5),
    "halfcheetah": (10.0, 10.0, 10.0, 2.0, 1.0, 0.5),
}

_ALPHA: dict[str, tuple[float, ...]] = {
    "spread": (0.5, 1.0, 1.0, 5.0, 5.0, 5.0),
    "tag": (0.5, 0.5, 0.5, 5.0, 5.0, 5.0),
    "world": (0.5, 1.0, 1.0, 0.5, 2.5, 5.0),
    "halfcheetah": (0.1, 0.1, 0.1, 1.0, 5.0, 5.0),
}

_ZETA: dict[str, tuple[float, ...]] = _ALPHA | {
    "tag": (0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    "world": (0.5, 1.0, 1.0, 0.5, 0.5, 5.0),
    "halfcheetah": (0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
}

_COE: dict[str, tuple[float, ...]] = {
    "spread": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "tag": (0.9, 0.9, 0.9, 0.7, 0.8, 0.9),
    "world": (1.0, 0.7, 0.7, 0.1, 0.5, 0.9),
    "halfcheetah": (1.0, 0.9, 0.9, 0.7, 0.6, 0.5),
}

# Settings of each algorithm that depend on the environment and the quality.
_TASKS: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "dom2": {"eta": _ETA, "zeta": _ZETA},
    "ma-cql": {"alpha": _ALPHA},
    "omar": {"alpha": _ALPHA, "coe": _COE},
    "cfcql": {"alpha": _ALPHA},
    "ma-diffusion-ql": {"eta": {"spread": (80.0, 80.0, 80.0, 5.0, 1.0, 0.5)}},
}

# Settings that depend on the environment alone: for every algorithm that has them, then for single ones.
# OMAR's step size of 0.01 is for the particle tasks. In halfcheetah ``compact`` has smaller ones (tried:
# docs/algorithms/ma-cql.md, omar.md; CFCQL's is untried); ``wide``, which overrides these, has the
# published one.

_ENVIRONMENT: dict[str, dict[str, Any]] = {"halfcheetah": {"gamma": 0.99}}
_OWN: dict[str, dict[str, dict[str, Any]]] = {
    "dom2": {"halfcheetah": {"n_steps": 10, "lr": 2e-3}},
    "ma-diffusion-ql": {"spread": {"candidates": 1}},
    "ma-sfbc": {"spread": {"candidates": 4}},
    "ma-cql": {"halfcheetah": {"lr": 5e-3, "n_policy": 10}},
    "omar": {"halfcheetah": {"lr": 1e-3, "n_policy": 10, "iterations": 2, "samples": 20, "elites": 5}},
    "cfcql": {"halfcheetah": {"lr": 1e-3}},
}


def updates(algorithm: str, preset: str, env: str) -> int:
    """Return the default number of gradient updates of a run."""
    # A user's own algorithm may have other presets.
    return updates_in(UPDATES.get(preset, UPDATES["compact"]), algorithm, env)


def updates_in(table: dict[str, int], algorithm: str, env: str) -> int:
    """Look up an algorithm in an environment in a table like those of ``UPDATES``."""
    return table.get(algorithm, table.get(envs.task(env), table[""]))


def defaults(algorithm: str, env: str, quality: str | None) -> dict[str, Any]:
    """Return the settings for data of this kind; all others keep the algorithm's own defaults."""
    env = envs.task(env)
    values = _ENVIRONMENT.get(env, {}) | _OWN.get(algorithm, {}).get(env, {})
    for name, table in _TASKS.get(algorithm, {}).items():
        if quality in _QUALITIES and env in table:
            values[name] = table[env][_QUALITIES.index(quality)]
    return values
