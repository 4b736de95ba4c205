"""Interquartile means and stratified bootstrap intervals, after Agarwal et al. 2021 (arXiv 2108.13264).

A sample is what varies by chance under one condition: the episodes of one seed, or the seeds of one cell.
Resampling stays within samples (strata).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Interval = list[float]
"""[low, high], JSON's pair"""

RESAMPLES = 2000
LEAST_SEEDS = 3
"""Two values have no interval worth the name: resampling gives back the values themselves."""
LEAST_TASKS = 3
"""The same of datasets."""
_AT_ONCE = 20_000_000
"""values that are resampled together, at most: 160 MB"""


def iqm(*samples: Values, axis: int = -1) -> Any:
    """Mean of the middle half of all values together."""
    from scipy import stats

    return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def average(*samples: Values, axis: int = -1) -> Any:
    """Mean over samples of their means, every one counting alike."""
    return np.mean([each.mean(axis=axis) for each in samples], axis=0)


def interval(
    statistic: Callable[..., Any],
    samples: Sequence[Values],
    seed: int = 0,
    least: int = 2,
) -> Interval | None:
    """The 95 % percentile interval of ``statistic(*samples, axis)``; None where a sample has too few."""
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
    """Mean, standard deviation, interquartile mean and its 95 % interval, or None, of samples [S, E]."""
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "iqm": float(iqm(values.reshape(-1))),
        "ci": interval(iqm, list(values), seed, least=least),
    }


def summary(values: Values, seed: int = 0) -> dict[str, Any]:
    """``spread``, the interval of no width where there is none."""
    found = spread(values, seed)
    return found | {"ci": found["ci"] or [found["iqm"], found["iqm"]]}


def improvement(ours: Sequence[Values], theirs: Sequence[Values]) -> dict[str, Any]:
    """P(X > Y) + P(X = Y) / 2 for seeds X of ours, Y of theirs on the same task, averaged over tasks [T]."""

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
    """How much higher our mean is, averaged over tasks [T]; the interval resamples tasks, as for others like
    them, and takes the seeds as they are."""
    differences = np.array([x.mean() - y.mean() for x, y in zip(ours, theirs, strict=True)])
    ci = interval(average, [differences], least=LEAST_TASKS)
    return {"mean": float(differences.mean()), "ci": ci, "tasks": len(differences)}


def profile(samples: Sequence[Values], taus: Values) -> Values:
    """Share of runs that score more than each tau, [len(taus)], every task counting alike."""
    return np.mean([(sample > taus[:, None]).mean(axis=1) for sample in samples], axis=0)
