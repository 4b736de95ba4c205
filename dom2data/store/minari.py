"""``metadata.json``: what Minari knows about a dataset, whether stored as our Zarr or as Minari's HDF5."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dom2data.spec import EnvSpec

FILE = "metadata.json"
VERSION = "0.5.0"
"""Minari's layout version. Older releases refuse a newer version, though the layout has not changed."""
OWN = "dom2data"
"""Key of ``metadata.json`` for what an import needs to restore the same dataset from the HDF5 copy."""


def metadata(
    manifest: Mapping[str, Any], data_format: str, dataset_id: str, size_bytes: int
) -> dict[str, Any]:
    """Return the keys that Minari reads, and the agents in order (Minari itself sorts them by name)."""
    spec = EnvSpec.from_json(manifest["spec"])
    own = manifest["references"].get("own") or {}
    scores = {"ref_min_score": own["random"], "ref_max_score": own["expert"]} if own else {}
    found = scores | {
        "dataset_id": dataset_id,
        "minari_version": VERSION,
        "data_format": data_format,
        "total_episodes": manifest["episodes"],
        "total_steps": manifest["steps"],
        "dataset_size": round(size_bytes / 1e6, 1),
        "observation_space": _dict_space(spec, spec.obs_dims, -float("inf"), float("inf")),
        "action_space": _dict_space(spec, [spec.act_dim] * spec.n_agents, spec.act_low, spec.act_high),
        "algorithm_name": manifest["quality"] or "unknown",
        "description": f"{manifest['env']}, {manifest['quality']}: one entry per agent; `rewards` are the "
        "team's, `infos/rewards` each agent's, in the order of `agents`",
        "author": ["dom2"],
        "author_email": [],
        "requirements": [f"dom2>={manifest['versions']['dom2']}"],
        "agents": list(spec.agent_names),
        "content_hash": manifest["hash"],
    }
    environment = _environment(manifest["env"])
    return found if environment is None else found | {"env_spec": environment}


def other(data: Path) -> str | None:
    """Return the format if ``data`` is a Minari dataset that this package did not make, else None."""
    try:
        found = json.loads((data / FILE).read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and found.get("data_format") in ("hdf5", "arrow", "parquet")
    return found["data_format"] if known else None


def _environment(name: str) -> str | None:
    """Return Gymnasium's JSON for the environment; None if this project cannot build it."""
    from dom2data import envs

    if name not in envs.KNOWN and not envs.is_foreign(name):
        return None
    from dom2data.envs.joint import gymnasium_spec

    return gymnasium_spec(name).to_json()


def _dict_space(spec: EnvSpec, sizes: Any, low: float, high: float) -> str:
    """Return Minari's JSON of a Dict space with a float32 vector per agent."""
    boxes = {
        agent: {
            "type": "Box",
            "dtype": "float32",
            "shape": [size],
            "low": [low] * size,
            "high": [high] * size,
        }
        for agent, size in zip(spec.agent_names, sizes, strict=True)
    }
    return json.dumps({"type": "Dict", "subspaces": boxes})
