"""How each episode was begun, so that Minari's ``recover_environment`` can begin it again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.dataset import Dataset
from dom2data.derive import origins
from dom2data.errors import UserError
from dom2data.replay import cohorts


def beginnings(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """``seed`` and ``options/...`` [Ep] for ``JointEnv.reset``; empty where the recipe does not tell.

    It tells for what can be replayed: not for users' environments, imports, and other versions of ours.
    """
    try:
        origin = origins(dataset)
        found = cohorts(dataset, origin)
    except UserError:
        return {}
    if any(cohort.env != dataset.env for cohort, _ in found):  # critics were shown more than was recorded
        return {}
    seed, rows, row = (np.zeros(dataset.n_episodes, np.int64) for _ in range(3))
    key = np.zeros((dataset.n_episodes, 2), np.int64)
    for cohort, episodes in found:
        seed[episodes], key[episodes] = np.asarray(cohort.seed.entropy), cohort.seed.spawn_key
        rows[episodes], row[episodes] = cohort.stop - cohort.start, origin[episodes, 1] - cohort.start
    return {"seed": seed, "options/spawn_key": key, "options/rows": rows, "options/row": row}
