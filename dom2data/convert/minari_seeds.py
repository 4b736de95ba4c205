"""How each episode was begun, so that Minari's ``recover_environment`` can begin it again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data import envs
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.replay import cohorts


def beginnings(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """``seed`` and ``options/...`` [Ep] for ``JointEnv.reset``; empty where the recipe does not tell.

    It tells for what can be replayed of ours: not for users' environments, imports, and other versions.
    """
    if envs.is_foreign(dataset.env):
        return {}
    try:
        found = cohorts(dataset)
    except UserError:
        return {}
    if any(cohort.env != dataset.env for cohort, _, _ in found):  # critics were shown more than was recorded
        return {}
    seed, count, row = (np.zeros(dataset.n_episodes, np.int64) for _ in range(3))
    key = np.zeros((dataset.n_episodes, 2), np.int64)
    for cohort, episodes, rows in found:
        seed[episodes], key[episodes] = np.asarray(cohort.seed.entropy), cohort.seed.spawn_key
        count[episodes], row[episodes] = len(cohort.episodes), rows
    return {"seed": seed, "options/spawn_key": key, "options/rows": count, "options/row": row}
