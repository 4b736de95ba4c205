"""Compare two datasets: schema, recipe, returns, every dimension, and whether they share episodes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dom2data.dataset import Dataset
from dom2data.look.coverage import sampled
from dom2data.spec import differences

ROWS = 100_000
"""Largest number of rows compared per dimension, so that a million take seconds."""


def diff(one: Dataset, other: Dataset) -> dict[str, Any]:
    """Return the comparison as JSON values (docs/cli.md): differences are [name, in ``one``, in ``other``].

    Distributions are compared by the Kolmogorov-Smirnov statistic (the largest gap between the two
    distribution functions, 0 to 1) and the Wasserstein-1 distance (in the quantity's own unit).
    """
    specs = [{k: v for k, v in each.spec.to_json().items() if k != "facts"} for each in (one, other)]
    comparable = one.spec.agent_names == other.spec.agent_names
    returns = {"team": apart(one.returns, other.returns)}
    if comparable:
        for i, name in enumerate(one.spec.agent_names):
            returns[name] = apart(one.agent_returns[:, i], other.agent_returns[:, i])
    return {
        "ids": [one.id, other.id],
        "hashes": [one.hash, other.hash],
        "same_content": one.hash == other.hash,
        "episodes": [one.n_episodes, other.n_episodes],
        "steps": [len(one), len(other)],
        "schema": changes(*specs),
        "facts": changes(one.spec.facts, other.spec.facts),
        "recipe": changes(one.manifest["recipe"] or {}, other.manifest["recipe"] or {}),
        "returns": returns,
        "drift": {name: drift(one, other, name) for name in ("observations", "actions", "rewards")},
        "shared": shared(one, other),
    }


def changes(one: dict[str, Any], other: dict[str, Any]) -> list[list[Any]]:
    """Return ``differences`` as JSON."""
    return [list(found) for found in differences(one, other)]


def apart(one: NDArray[Any], other: NDArray[Any]) -> dict[str, Any]:
    """Return the means and standard deviations of two samples, and the distances of their distributions."""
    from scipy.stats import ks_2samp, wasserstein_distance

    x, y = one.astype(np.float64), other.astype(np.float64)
    return {
        "mean": [float(x.mean()), float(y.mean())],
        "std": [float(x.std()), float(y.std())],
        "ks": float(ks_2samp(x, y, method="asymp").statistic),
        "wasserstein": float(wasserstein_distance(x, y)),
    }


def rows(values: NDArray[Any]) -> NDArray[Any]:
    """Draw at most ``ROWS`` rows, always the same; every k-th row would hit only some times in episodes."""
    return values[sampled(len(values), ROWS, np.random.default_rng(0))]


def drift(one: Dataset, other: Dataset, name: str) -> list[dict[str, Any]]:
    """Return ``apart`` for every agent and dimension of an array, largest KS first; empty if shapes differ.

    Padding of narrower observations is left out.
    """
    x, y = (rows(each.array(name)) for each in (one, other))
    if x.shape[1:] != y.shape[1:]:
        return []
    x, y = x.reshape(*x.shape[:2], -1), y.reshape(*y.shape[:2], -1)
    widths = one.spec.obs_dims if name == "observations" else (x.shape[2],) * x.shape[1]
    found = [
        {"agent": one.spec.agent_names[i], "dimension": d, **apart(x[:, i, d], y[:, i, d])}
        for i, width in enumerate(widths)
        for d in range(width)
    ]
    return sorted(found, key=lambda entry: -entry["ks"])


def shared(one: Dataset, other: Dataset) -> dict[str, Any]:
    """Count each dataset's episodes that are in the other: whole, or by first observation (the same seed).

    Above zero, neither dataset is a fair test for a policy trained on the other.
    """
    wholes = [fingerprints(each, whole=True) for each in (one, other)]
    starts = [fingerprints(each, whole=False) for each in (one, other)]
    return {
        name: [sum(x in there for x in here) for here, there in ((a, set(b)), (b, set(a)))]
        for name, (a, b) in (("identical", wholes), ("same_start", starts))
    }


def fingerprints(dataset: Dataset, whole: bool) -> list[bytes]:
    """Return a hash per episode: of its observations and actions, or of its first observation alone."""
    obs, actions = (np.ascontiguousarray(dataset.array(name)) for name in ("observations", "actions"))
    found = []
    for i, (start, stop) in enumerate(zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)):
        rows = slice(start + i, stop + i + 1) if whole else slice(start + i, start + i + 1)
        digest = hashlib.blake2b(obs[rows].data, digest_size=16)
        if whole:
            digest.update(actions[start:stop].data)
        found.append(digest.digest())
    return found
