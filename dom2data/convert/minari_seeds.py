"""How each episode was begun, so that Minari's ``recover_environment`` can begin it again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data import envs, recipes
from dom2data.collect import share
from dom2data.dataset import Dataset
from dom2data.store.layout import block_episodes


def beginnings(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """``seed`` and ``options/...`` [Ep] for ``JointEnv.reset``; empty where the recipe does not tell.

    It tells for what was rolled out by this project's own environments; not for replay buffers, users'
    environments (whose episodes are put into another order), imports, and mixtures.
    """
    recipe, chosen = dataset.manifest["recipe"] or {}, np.arange(dataset.n_episodes)
    parents = dataset.manifest["parents"]
    if len(parents) == 1 and "parent_episode" in dataset.manifest["arrays"]:
        recipe, chosen = parents[0].get("recipe") or {}, dataset.array("parent_episode")
        if parents[0].get("parents"):
            return {}
    parts = _parts(recipe)
    if not parts:
        return {}
    size = block_episodes(dataset.spec.horizon)
    total = -(-recipe["steps"] // dataset.spec.horizon)
    found: dict[str, list[NDArray[Any]]] = {"key": [], "rows": [], "row": []}
    for block in range(-(-total // size)):
        counts = share(parts, block * size, min((block + 1) * size, total))
        for part, count in enumerate(counts):
            found["key"].append(np.tile([block, 2 * part], (count, 1)))
            found["rows"].append(np.full(count, count))
            found["row"].append(np.arange(count))
    key, rows, row = (np.concatenate(found[name])[chosen] for name in ("key", "rows", "row"))
    seed = np.full(len(chosen), recipe["seed"], np.int64)
    return {"seed": seed, "options/spawn_key": key, "options/rows": rows, "options/row": row}


def _parts(recipe: Any) -> list[float]:
    """The shares of the recipe's policies, if it is one of rolled out episodes of equal length."""
    env, quality = recipe.get("env", ""), recipe.get("quality")
    if env not in (*envs.NAMES, *envs.VARIANTS) or quality not in recipes.QUALITIES:
        return []
    return [part for _, part in recipes.quality(quality).parts]
