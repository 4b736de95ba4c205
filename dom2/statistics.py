"""Interquartile means and stratified bootstrap intervals, after Agarwal et al. 2021 (arXiv 2108.13264).

A sample holds the values that vary by chance under one condition: the episodes of one seed, or the seeds of
one cell. Resampling stays within samples (strata).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Interval = list[float]
"""[low, high], a list as in JSON"""

RESAMPLES = 2000
LEAST_SEEDS = 3
"""Two seeds give no meaningful interval: its ends would be the two values themselves."""
LEAST_TASKS = 3
"""The same for datasets."""
_AT_ONCE = 20_000_000
"""largest number of values that are resampled at once: 160 MB"""


def iqm(*samples: Values, axis: int = -1) -> Any:
    """Interquartile mean: the mean of the middle half of all values pooled."""
    from scipy import stats

    return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def average(*samples: Values, axis: int = -1) -> Any:
    """Mean of the samples' means, all with equal weight."""
    return np.mean([each.mean(axis=axis) for each in samples], axis=0)


def interval(
    statistic: Callable[..., Any],
    samples: Sequence[Values],
    seed: int = 0,
    least: int = 2,
) -> Interval | None:
    """95 % percentile interval of ``statistic(*samples, axis)``; None for samples of fewer than ``least``."""
    if min(map(len, samples)) < least:
        return None
    from scipy import stats

    found = stats.bootstrap(
        tuple(samples),
        statistic,
        paired=False,
        n_resamples=RESAMPLES,
        batch=min(RESAMPLES, max(1, _AT_ONCE // sum(map(len, samples)))),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return [float(found.low), float(found.high)]


def spread(values: Values, seed: int = 0, least: int = 2) -> dict[str, Any]:
    """Mean, standard deviation, interquartile mean and its 95 % interval (or None) of samples [S, E]."""
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "iqm": float(iqm(values.reshape(-1))),
        "ci": interval(iqm, list(values), seed, least=least),
    }


def summary(values: Values, seed: int = 0) -> dict[str, Any]:
    """Like ``spread``, with an interval of zero width instead of None."""
    found = spread(values, seed)
    return found | {"ci": found["ci"] or [found["iqm"], found["iqm"]]}


def improvement(ours: Sequence[Values], theirs: Sequence[Values]) -> dict[str, Any]:
    """P(X > Y) + P(X = Y) / 2 for our seeds X and their seeds Y on the same task, averaged over tasks [T]."""

    def probability(*samples: Values, axis: int = -1) -> Any:
        halves = zip(samples[: len(ours)], samples[len(ours) :], strict=True)
        return np.mean([_superiority(x, y) for x, y in halves], axis=0)

    return {
        "mean": float(probability(*ours, *theirs)),
        "ci": interval(probability, [*ours, *theirs], least=LEAST_SEEDS),
        "tasks": len(ours),
    }


def _superiority(x: Values, y: Values) -> Any:
    """[..., n], [..., m] -> [...]"""
    difference = x[..., :, None] - y[..., None, :]
    return (0.5 * (np.sign(difference) + 1.0)).mean(axis=(-2, -1))


def lead(ours: Sequence[Values], theirs: Sequence[Values]) -> dict[str, Any]:
    """How much higher our mean is, averaged over tasks [T]. The interval resamples tasks, to generalise to
    similar ones, but not seeds."""
    differences = np.array([x.mean() - y.mean() for x, y in zip(ours, theirs, strict=True)])
    ci = interval(average, [differences], least=LEAST_TASKS)
    return {"mean": float(differences.mean()), "ci": ci, "tasks": len(differences)}


def profile(samples: Sequence[Values], taus: Values) -> Values:
    """Share of runs that score more than each tau, [len(taus)], with equal weight for every task."""
    return np.mean([(sample > taus[:, None]).mean(axis=1) for sample in samples], axis=0)
