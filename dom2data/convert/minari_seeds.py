"""How each episode was started, so that Minari's ``recover_environment`` can start it again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data import envs
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.replay import cohorts


def beginnings(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Return ``seed`` and ``options/...`` [Ep] for ``JointEnv.reset``; empty if the recipe does not tell.

    It does for data of built-in environments that can be replayed, not for imports or other versions.
    """
    if envs.is_foreign(dataset.env):
        return {}
    try:
        found = cohorts(dataset)
    except UserError:
        return {}
    # recorded in a variant that shows critics more
    if any(cohort.env != dataset.env for cohort, _, _ in found):
        return {}
    seed, count, row = (np.zeros(dataset.n_episodes, np.int64) for _ in range(3))
    key = np.zeros((dataset.n_episodes, 2), np.int64)
    for cohort, episodes, rows in found:
        seed[episodes], key[episodes] = np.asarray(cohort.seed.entropy), cohort.seed.spawn_key
        count[episodes], row[episodes] = len(cohort.episodes), rows
    return {"seed": seed, "options/spawn_key": key, "options/rows": count, "options/row": row}
