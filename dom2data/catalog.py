"""List the datasets under a root, reading only their manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dom2data import ids, scores
from dom2data.dataset import Dataset
from dom2data.dataset import open as open_dataset
from dom2data.errors import UserError
from dom2data.spec import EnvSpec
from dom2data.store import manifest as manifests
from dom2data.store import remote


def catalog(base: Path | str) -> tuple[list[dict[str, Any]], list[UserError]]:
    """Return summaries of the complete datasets under a folder or a URL, by id, and errors of the others."""
    if isinstance(base, str):
        manifests_there, refused = remote.manifests_of(base)
        return [summary(manifest, base) for manifest in manifests_there], refused
    found, refused = [], []
    for dataset_id in ids.existing(base):
        try:
            found.append(summary(manifests.read(ids.directory(dataset_id, base)), base))
        except UserError as error:
            refused.append(error)
    return found, refused


def newest(base: Path) -> Dataset:
    """Return the most recently written dataset, wherever it was made. Raises UserError if there is none."""
    for _, dataset_id in sorted(((_written(each, base), each) for each in ids.existing(base)), reverse=True):
        try:
            return open_dataset(dataset_id, base)
        except UserError:  # incomplete, or not a dataset of this package
            continue
    raise UserError(f"expected a dataset under {base}, found none; `dom2data generate` makes one")


def _written(dataset_id: str, base: Path) -> int:
    """When a dataset's marker was written here, in ns; the manifest's date may come from another machine."""
    try:
        return (ids.directory(dataset_id, base) / manifests.MARKER).stat().st_mtime_ns
    except OSError:
        return 0


def summary(manifest: dict[str, Any], base: Path | str) -> dict[str, Any]:
    """Return the JSON record that ``list`` and ``show`` print (documented in docs/cli.md)."""
    env, quality = manifest["env"], manifest["quality"]
    mean, references = manifest["returns"]["team"]["mean"], manifest["references"]
    published = scores.PUBLISHED_RETURNS.get(env, {}).get(quality) if not manifest["parents"] else None
    keys = ("id", "env", "quality", "steps", "episodes", "returns", "references", "hash", "recipe", "parents")
    more = ("policies", "sources", "size_bytes", "created", "wall_s", "spec", "versions")
    return {key: manifest[key] for key in keys + more} | {
        "path": f"{base}/{manifest['id']}",
        "fingerprint": EnvSpec.from_json(manifest["spec"]).fingerprint,
        "agents": len(manifest["spec"]["agent_names"]),
        "normalized": _score(mean, references["published"]),
        "normalized_own": _score(mean, references["own"]),
        "published": {"mean": published[0], "std": published[1]} if published else None,
    }


def _score(mean: float, at: dict[str, float] | None) -> float | None:
    return scores.between(mean, at) if at else None
