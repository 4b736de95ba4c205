"""Pictures of a target's entries: scores, profiles, curves, the gap under a shift, fractions, sweeps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dom2 import experiments, statistics, tables
from dom2.jobs import plain
from dom2.results import Result
from dom2.tables import Entry
from dom2data import scores
from dom2data.look.pictures import canvas, svg

Picture = tuple[str, str]
"""Title and data URI."""

Mean = tuple[float, float, float]
"""a mean and the ends of its interval"""

# Okabe and Ito's palette, which colour-blind readers tell apart; DOM2 is always the first.
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_MARKERS = "os^Dv<>P*XhdpH8"
_DASHES = ("-", "--", ":", "-.")


def style(label: str, labels: Sequence[str]) -> tuple[str, str]:
    """(colour, marker) of a column."""
    place = _place(label, labels)
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


def line(label: str, labels: Sequence[str]) -> dict[str, Any]:
    """Colour and dashes of a column's line; when the colours are used up, the next dash style follows."""
    place = _place(label, labels)
    dashes = _DASHES[place // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[place % len(_COLOURS)], "ls": dashes, "lw": 2.0 if label == "dom2" else 1.2}


def marked_line(label: str, labels: Sequence[str]) -> dict[str, Any]:
    """A column's line with its marker."""
    return line(label, labels) | {"marker": style(label, labels)[1]}


def _place(label: str, labels: Sequence[str]) -> int:
    return sorted(labels, key=lambda each: (each != "dom2", labels.index(each))).index(label)


def returns(listed: Sequence[Entry]) -> list[Picture]:
    """Plot returns by quality for each environment and shift: a point with its interval for each column, the
    paper's value as a hollow marker, and the data's return as a line."""
    names, found = tables.labels(listed), []
    for env, shift in dict.fromkeys((each.env, each.shift) for each in listed):
        chosen = [each for each in listed if (each.env, each.shift) == (env, shift)]
        qualities = list(dict.fromkeys(each.quality for each in chosen))
        figure, axes = canvas(6.4, 3.6)
        for place, quality in enumerate(qualities):
            level = next(each.data for each in chosen if each.quality == quality)
            axes.hlines(level, place - 0.45, place + 0.45, color="#bbbbbb", linewidth=1)
        for number, label in enumerate(names):
            colour, marker = style(label, names)
            shift_x = (number - (len(names) - 1) / 2) * 0.8 / len(names)
            mine = [each for each in chosen if each.label == label and each.fraction == 1.0]
            x = np.array([qualities.index(each.quality) for each in mine]) + shift_x
            interval(axes, x, mine, colour, marker, label)
            known = [(at, each) for at, each in zip(x, mine, strict=True) if each.paper]
            levels = [paper_return(each) for _, each in known]
            axes.plot(
                [at for at, _ in known], levels, marker, mfc="none", mec=colour, alpha=0.45, ls="", ms=6
            )
        axes.set_xticks(range(len(qualities)), [each.replace("-", "-\n") for each in qualities], fontsize=8)
        axes.set_ylabel("return per episode")
        figure.legend(frameon=False, fontsize=7, ncols=min(5, len(names)), loc="outside lower center")
        found.append((f"{env}, {environment(shift)}", svg(figure)))
    return found


def interval(axes: Axes, x: np.ndarray, mine: list[Entry], colour: str, marker: str, label: str) -> None:
    """Plot points at the iqm with their intervals."""
    middle = np.array([each.iqm for each in mine])
    ends = np.array([each.ci or (each.iqm, each.iqm) for each in mine]).reshape(-1, 2).T
    axes.errorbar(
        x, middle, yerr=np.abs(ends - middle), fmt=marker, color=colour, label=label, ms=4, lw=1, capsize=0
    )


def paper_return(each: Entry) -> float:
    """The published number as a return."""
    assert each.paper is not None
    value = each.paper["mean"]
    return float(scores.denormalize(each.env, value)) if each.paper["unit"] == "score" else value


def environment(shift: str, fraction: float = 1.0) -> str:
    """Describe a group's shift and fraction in words."""
    share = "" if fraction == 1.0 else f", {100 * fraction:g} % of the trajectories"
    return ("standard environment" if shift == "none" else f"shift {shift}") + share


def datasets(chosen: Collection[Any]) -> str:
    return f"{len(chosen)} dataset{'s' if len(chosen) != 1 else ''}"


def profiles(listed: Sequence[Entry]) -> list[Picture]:
    """Performance profiles (Agarwal et al. 2021): the share of runs that score more than tau."""
    names, found = tables.labels(listed), []
    for where, group in tables.groups(listed).items():
        chosen = tables.fair(group)
        if not chosen:
            continue
        values = {label: tables.samples(chosen, label) for label in chosen[0]}
        together = np.concatenate([sample for each in values.values() for sample in each])
        taus = np.linspace(together.min() - 1.0, together.max() + 1.0, 200)
        figure, axes = canvas(5.6, 3.0)
        for label in values:
            axes.plot(taus, statistics.profile(values[label], taus), **line(label, names), label=label)
        axes.set(xlabel="normalised score τ", ylabel="share of runs above τ", ylim=(0, 1.02))
        axes.legend(frameon=False, fontsize=7)
        found.append((f"Performance profiles, {datasets(chosen)}, {environment(*where)}", svg(figure)))
    return found


def gaps(listed: Sequence[Entry]) -> list[Picture]:
    """Plot the change of the mean score from the standard environment to each shift, with a point for each
    dataset and a bar at the mean over the datasets that every column has."""
    names, found = tables.labels(listed), []
    by_row = tables.rows(listed)
    for shift in dict.fromkeys(each.shift for each in listed if each.shift != "none"):
        changes: dict[str, dict[tuple[str, str, float], float]] = {label: {} for label in names}
        for (env, quality, fraction, its_shift), row in by_row.items():
            before = by_row.get((env, quality, fraction, "none"), {})
            for label, each in row.items() if its_shift == shift else ():
                level = before[label].score if label in before else None
                if each.score is not None and level is not None:
                    changes[label][env, quality, fraction] = each.score - level
        if not any(changes.values()):
            continue  # a variant without scores
        common = set.intersection(*map(set, changes.values()))
        figure, axes = canvas(5.6, 3.0)
        for place, (label, mine) in enumerate(changes.items()):
            colour, marker = style(label, names)
            axes.plot(list(mine.values()), [place] * len(mine), marker, color=colour, ms=4, alpha=0.7)
            if common:
                axes.plot([float(np.mean([mine[key] for key in common]))], [place], "|", color="black", ms=14)
        axes.axvline(0.0, color="#bbbbbb", lw=1, zorder=0)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_xlabel("score under the shift − score in the standard environment")
        bars = f" (bars: mean of {datasets(common)})" if common else ""
        found.append((f"What shift {shift} costs{bars}", svg(figure)))
    return found


def curves(results: Sequence[tuple[str, str, Result]], names: Sequence[str]) -> list[Picture]:
    """Plot returns while training of (dataset, label, result), one picture for each dataset. ``names`` are
    all columns of the page, so that each keeps its colour."""
    found = []
    for data in dict.fromkeys(data for data, _, _ in results):
        mine = [
            (label, each) for its, label, each in results if its == data and len(each.curve["updates"]) > 1
        ]
        if not mine:
            continue
        figure, axes = canvas(4.0, 2.4)
        for label, each in mine:
            x, values = each.curve["updates"], np.array(each.curve["returns"])
            axes.plot(x, values.mean(axis=1), **line(label, names), label=label)
            colour, _ = style(label, names)
            axes.fill_between(x, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.12, lw=0)
        axes.set(xlabel="gradient updates", ylabel="return per episode")
        axes.legend(frameon=False, fontsize=7)
        found.append((data, svg(figure)))
    return found


def middle(values: Sequence[np.ndarray]) -> Mean:
    """Mean of scores, [S] for each row, and the ends of its interval; both are the mean if there is none."""
    mean = float(statistics.average(*values))
    low, high = statistics.interval(statistics.average, values, least=statistics.LEAST_SEEDS) or (mean, mean)
    return mean, low, high


def points(axes: Axes, x: Sequence[float], found: Sequence[Mean], **how: Any) -> None:
    """Draw a line through means, with their intervals."""
    mean, low, high = np.array(found).reshape(-1, 3).T
    axes.errorbar(x, mean, yerr=[mean - low, high - mean], ms=4, elinewidth=0.8, **how)


def qualities(listed: Sequence[Entry]) -> list[Picture]:
    """Figure 5 (d): the score by quality, averaged over the particle tasks, for the columns that
    ``tables.fair`` has; nothing with fewer than two complete qualities."""
    mine = [e for e in listed if e.env != "halfcheetah" and (e.shift, e.fraction) == ("none", 1.0)]
    names, rows = tables.labels(listed), tables.fair(mine)
    by_quality: dict[str, list[dict[str, Entry]]] = {}
    for row in rows:
        by_quality.setdefault(next(iter(row.values())).quality, []).append(row)
    tasks = sorted({each.env for each in mine})
    whole = {quality: rows for quality, rows in by_quality.items() if len(rows) == len(tasks) > 1}
    if len(whole) < 2:
        return []
    figure, axes = canvas(5.6, 3.4)
    for label in rows[0]:
        means = [middle(tables.samples(rows, label)) for rows in whole.values()]
        points(axes, range(len(whole)), means, **marked_line(label, names), label=label)
    axes.set_xticks(range(len(whole)), [quality.replace("-", "-\n") for quality in whole], fontsize=8)
    axes.set_ylabel("mean normalised score")
    figure.legend(frameon=False, fontsize=7, loc="outside right upper")
    return [(f"By quality, averaged over {', '.join(tasks)}", svg(figure))]


def fractions(listed: Sequence[Entry]) -> list[Picture]:
    """Figure 5: the score, averaged over an environment's datasets, by the share of trajectories."""
    names, found = tables.labels(listed), []
    for env in dict.fromkeys(each.env for each in listed):
        lines, whole = averaged([each for each in listed if (each.env, each.shift) == (env, "none")])
        if not lines:
            continue
        figure, axes = canvas(4.4, 2.8)
        for label, means in lines.items():
            points(axes, list(means), list(means.values()), **marked_line(label, names), label=label)
        axes.set(xscale="log", xlabel="share of the trajectories", ylabel="mean normalised score")
        axes.legend(frameon=False, fontsize=7)
        found.append((f"{env}: fewer trajectories, {' and '.join(whole)}", svg(figure)))
    return found


def averaged(mine: Sequence[Entry]) -> tuple[dict[str, dict[float, Mean]], list[str]]:
    """Mean score and interval by column and share of the trajectories, and the qualities that are averaged.
    These are always the same: those in which every column has all the shares that it has anywhere."""
    wanted = {(each.label, each.fraction) for each in mine}
    by_dataset: dict[str, dict[tuple[str, float], np.ndarray]] = {}
    for each in mine:
        if (normal := each.per_seed_scores) is not None:
            by_dataset.setdefault(each.quality, {})[each.label, each.fraction] = normal
    whole = {quality: row for quality, row in by_dataset.items() if set(row) == wanted}
    found: dict[str, dict[float, Mean]] = {}
    for label, share in sorted(wanted) if whole else ():
        found.setdefault(label, {})[share] = middle([row[label, share] for row in whole.values()])
    return found, list(whole)


def sweeps(listed: Sequence[Entry]) -> list[Picture]:
    """Sensitivity: normalised scores by each setting's value, one line for each dataset."""
    found = []
    for name in dict.fromkeys(each.label.split()[0] for each in listed):
        mine = [each for each in listed if each.label.split()[0] == name]
        there = {each.label.split()[1] for each in mine}
        values = [value for value in map(plain, experiments.SENSITIVITY[name]) if value in there]
        rows = list(dict.fromkeys((each.env, each.quality) for each in mine))
        figure = sweep(mine, values, rows)
        found.append((f"Sensitivity to {name}", svg(figure)))
    return found


def sweep(mine: Sequence[Entry], values: Sequence[str], rows: Sequence[tuple[str, str]]) -> Figure:
    """Plot one setting: its values along x, scores along y."""
    figure, axes = canvas()
    names = [f"{env}-{quality}" for env, quality in rows]
    for row, name in zip(rows, names, strict=True):
        by_value = {each.label.split()[1]: each for each in mine if (each.env, each.quality) == row}
        shown = [by_value[value] for value in values if value in by_value]
        x = np.array([values.index(each.label.split()[1]) for each in shown])
        colour, marker = style(name, names)
        normal = [each.per_seed_scores for each in shown]
        scored = [(at, middle([own])) for at, own in zip(x, normal, strict=True) if own is not None]
        points(axes, [at for at, _ in scored], [each for _, each in scored],
               color=colour, marker=marker, lw=1.2, label=name)  # fmt: skip
    axes.set_xticks(range(len(values)), values, fontsize=8)
    axes.set_ylabel("normalised score")
    axes.legend(frameon=False, fontsize=7)
    return figure
