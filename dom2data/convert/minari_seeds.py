"""How each episode was begun, so that Minari's ``recover_environment`` can begin it again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.dataset import Dataset
from dom2data.derive import origins
from dom2data.errors import UserError
from dom2data.replay import members


def beginnings(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """``seed`` and ``options/...`` [Ep] for ``JointEnv.reset``; empty where the recipe does not tell.

    It tells for what can be replayed: not for users' environments, imports, and other versions of ours.
    """
    try:
        origin = origins(dataset)
        batches = members(dataset, origin)
    except UserError:
        return {}
    if any(batch.env != dataset.env for batch, _ in batches):  # critics were shown more than was recorded
        return {}
    seed, rows, row = (np.zeros(dataset.n_episodes, np.int64) for _ in range(3))
    key = np.zeros((dataset.n_episodes, 2), np.int64)
    for batch, episodes in batches:
        seed[episodes], key[episodes] = np.asarray(batch.seed.entropy), batch.seed.spawn_key
        rows[episodes], row[episodes] = batch.stop - batch.start, origin[episodes, 1] - batch.start
    return {"seed": seed, "options/spawn_key": key, "options/rows": rows, "options/row": row}
