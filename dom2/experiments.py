"""The tables and figures of the paper as cells, each a run on a dataset, and the scales to run them at."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dom2 import algorithms, fit, jobs, presets
from dom2data import recipes, sampler
from dom2data.errors import UserError

Settings = tuple[tuple[str, Any], ...]

MPE = ("tag", "world", "spread")
QUALITIES = tuple(recipes.QUALITIES)
BASELINES = ("bc", "ma-cql", "omar", "ma-sfbc")
COMPARED = ("bc", "ma-td3+bc", "ma-cql", "omar", "cfcql", "ma-iql", "ma-icq", "omiga", "ma-sfbc",
            "ma-diffusion-ql", "madiff", "madiff-c", "dom2")  # fmt: skip
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)

# A column's name -> the algorithm and the settings that differ from its defaults.
COLUMNS: dict[str, tuple[str, Settings]] = {"madiff-c": ("madiff", (("execution", "centralised"),))}

_MLP_WIDTHS = {"compact": (236, 236, 236), "wide": (896, 896, 896)}
"""within 3 % as many parameters as the residual network of the same preset"""


def ablations(preset: str = "compact") -> dict[str, Settings]:
    """Settings of DOM2 with one part removed, by the column's name."""
    return {
        "dom2": (),
        "no policy improvement": (("eta", 0.0),),
        "no diffusion loss": (("bc_weight", 0.0),),
        "no augmentation": (("augment", "none"),),
        "MLP noise network": (("noise_network", "mlp"), ("widths", _MLP_WIDTHS[preset])),
    }


SENSITIVITY: dict[str, tuple[Any, ...]] = {
    "eta": (0.5, 1.0, 2.0, 4.0, 5.0, 10.0, 20.0, 80.0),
    "zeta": (0.0, 0.1, 0.5, 1.0, 5.0),
    "n_steps": (1, 2, 5, 10),
    "rho": (0.005, 0.01, 0.02, 0.05),
    "grid": ("uniform", "quadratic", "logsnr"),
    "thresholds": ((0.5,), (0.9,), (0.5, 0.75), (0.5, 0.75, 0.9, 0.95)),
}


@dataclass(frozen=True)
class Cell:
    """One run of all seeds: an algorithm with some settings on a dataset or a fraction of it."""

    env: str
    quality: str
    label: str
    """column of the table, or line in the figure"""
    algorithm: str
    settings: Settings = ()
    """settings of the run or the algorithm that differ from those of the scale and the presets"""
    fraction: float = 1.0
    """share of the trajectories"""

    @property
    def data(self) -> str:
        """Name of the data, such as tag-medium or tag-medium-5pct."""
        share = "" if self.fraction == 1.0 else f"-{100 * self.fraction:g}pct"
        return f"{self.env}-{self.quality}{share}"

    def folder(self, *more: tuple[str, Any]) -> Path:
        """Folder of its run under its scale's; cells that differ only in their label share one."""
        return jobs.place(self.data, self.algorithm, (*self.settings, *more))


@dataclass(frozen=True)
class Scale:
    """The size of the runs and evaluations of a cell."""

    preset: str
    seeds: int
    batch_size: int
    updates: dict[str, int]
    """gradient updates, by algorithm (which has priority) or environment; ``""`` for all others"""
    episodes: dict[str, int]
    """episodes of each seed's evaluation, by environment and algorithm (the fewer count); ``""``: others"""
    evaluations: int = 10
    """number of evaluations while training"""
    steps: int | None = None
    """transitions of a dataset; None: as many as ``dom2data generate`` makes"""
    stages: dict[str, dict[str, int]] = field(default_factory=dict)
    """by algorithm: lengths of its stages, if there are too few updates for its preset's"""

    def updates_of(self, cell: Cell) -> int:
        return presets.updates_in(self.updates, cell.algorithm, cell.env)

    def episodes_of(self, cell: Cell) -> int:
        return min(self.episodes.get(name, self.episodes[""]) for name in (cell.algorithm, cell.env))


SCALES = {
    "smoke": Scale(
        "compact",
        2,
        32,
        {"": 40},
        {"": 4, "halfcheetah": 1},
        1,
        steps=20_000,
        stages={"ma-sfbc": {"behaviour_updates": 20, "critic_updates": 10, "bank": 64}},
    ),
    "compact": Scale(
        "compact",
        5,
        256,
        presets.UPDATES["compact"],
        {"": 500, "halfcheetah": 100, "madiff": 100},
    ),
    "paper": Scale(
        "wide",
        5,
        256,
        presets.UPDATES["wide"],
        {"": 500, "halfcheetah": 50, "madiff": 20},
    ),
}
"""``smoke`` only shows that everything runs; ``compact`` is sized for two cores, ``paper`` for a GPU."""


class Target(NamedTuple):
    """A table or figure that ``dom2 reproduce`` makes."""

    title: str
    envs: tuple[str, ...]
    qualities: tuple[str, ...]
    columns: tuple[str, ...]
    """names of algorithms, or variants of DOM2"""
    shifts: tuple[str, ...] = ("none",)
    figure: Literal["scores", "fractions", "sweep", "solutions"] = "scores"
    fractions: tuple[float, ...] = (1.0,)


TARGETS: dict[str, Target] = {
    "table1": Target(
        "Table 1: returns in the standard particle tasks", MPE, QUALITIES, (*BASELINES, "madiff", "dom2")
    ),
    "table2": Target(
        "Table 2: returns with agents of other speeds",
        MPE,
        QUALITIES,
        (*BASELINES, "madiff", "dom2"),
        ("none", "speed"),
    ),
    "table3": Target(
        "Table 3: returns in 2-agent HalfCheetah", ("halfcheetah",), QUALITIES, (*BASELINES, "dom2")
    ),
    "table4": Target(
        "Table 4: returns in shifted HalfCheetah",
        ("halfcheetah",),
        QUALITIES,
        (*BASELINES, "dom2"),
        ("none", "random", "extreme"),
    ),
    "comparison": Target(
        "Every algorithm beside the published comparison",
        ("tag", "spread"),
        ("random", "medium-replay", "medium", "expert"),
        COMPARED,
    ),
    "figure2": Target(
        "Figure 2: three agents, six landmarks, of which three are dismissed",
        ("spread-6-landmarks",),
        ("medium", "expert"),
        ("bc", "ma-cql", "omar", "ma-diffusion-ql", "dom2"),
        ("none", "dismiss"),
        "solutions",
    ),
    "figure5": Target(
        "Figure 5: fewer trajectories",
        MPE,
        tuple(quality for quality in QUALITIES if quality != "medium-replay"),
        ("ma-cql", "omar", "ma-sfbc", "dom2"),
        figure="fractions",
        fractions=FRACTIONS,
    ),
    "augmentation": Target(
        "Augmentation for both sides",
        MPE,
        ("random", "medium-replay", "medium", "expert"),
        ("ma-cql", "ma-cql augmented", "omar", "omar augmented", "dom2 not augmented", "dom2"),
    ),
    "figure6": Target(
        "Figure 6: parts of DOM2 removed",
        MPE,
        ("random", "medium-replay", "medium", "expert"),
        tuple(ablations()),
        ("none", "speed"),  # not in the paper: which parts matter for generalisation
    ),
    "sensitivity": Target(
        "Sensitivity of DOM2 to its settings", MPE, ("medium-replay", "medium"), (), figure="sweep"
    ),
}


KINDS: dict[str, Callable[[Cell], str]] = {
    "environment": lambda cell: cell.env,
    "quality": lambda cell: cell.quality,
    "dataset": lambda cell: f"{cell.env}-{cell.quality}",
    "column": lambda cell: cell.label,
    "part of the trajectories": lambda cell: f"{100 * cell.fraction:g}%",
}
"""What the words of ``--only`` may name."""


def cells(
    name: str, only: Sequence[str] = (), columns: Sequence[str] | None = None, scale: str = "compact"
) -> list[Cell]:
    """The cells of a target, dataset by dataset; ``columns`` replace the target's own.

    Words of ``only`` name environments, qualities, datasets, columns, or parts of the trajectories (``5%``);
    a cell must match one word of each kind that occurs.
    Raises UserError for an unknown target, column or word.
    """
    if name not in TARGETS:
        raise UserError(f"expected a target ({', '.join(TARGETS)}), found {name!r}; choose one")
    target = TARGETS[name]
    if target.figure == "sweep":
        if columns:
            raise UserError(f"expected {name} without --algorithms, since it is of DOM2; leave it out")
        found = list(sweep(target, SCALES[scale].preset))
    else:
        found = list(columnwise(target, columns or target.columns, SCALES[scale].preset))
    known = {kind: dict.fromkeys(map(of, found)) for kind, of in KINDS.items()}
    unknown = set(only).difference(*known.values())
    if unknown:
        others = "; ".join(f"{kind}: {', '.join(ws)}" for kind, ws in known.items() if kind != "dataset")
        raise UserError(
            f"expected --only of a dataset as in --dry-run, or of {others}; found {sorted(unknown)[0]!r}"
        )
    for kind, of in KINDS.items():
        wanted = known[kind].keys() & set(only)
        found = [cell for cell in found if not wanted or of(cell) in wanted]
    return found


def columnwise(target: Target, columns: Sequence[str], preset: str) -> Iterator[Cell]:
    """Yield every column on every dataset of a target."""
    resolved = {column: column_of(column, preset) for column in columns}
    for env, quality, fraction in itertools.product(target.envs, target.qualities, target.fractions):
        for label, (algorithm, settings) in resolved.items():
            yield Cell(env, quality, label, algorithm, settings, fraction)


def column_of(label: str, preset: str = "compact") -> tuple[str, Settings]:
    """Return a column's algorithm and settings. Raises UserError for an unknown column."""
    if label in COLUMNS:
        return COLUMNS[label]
    if label in (parts := ablations(preset)):
        return "dom2", parts[label]
    name, _, rest = label.partition(" ")
    algorithms.load(name)
    augment = {"": (), "augmented": (("augment", "quantile"),), "not augmented": (("augment", "none"),)}
    if rest not in augment:
        raise UserError(f"expected an algorithm, 'augmented' or 'not augmented' after it, found {label!r}")
    return name, augment[rest]


def sweep(target: Target, preset: str) -> Iterator[Cell]:
    """Yield DOM2 with one setting at a time moved from its preset value."""
    for env, quality in itertools.product(target.envs, target.qualities):
        defaults = asdict(fit.configure("dom2", preset, env, quality, {}))
        defaults["thresholds"] = sampler.DEFAULTS["quantile"]
        for name, values in SENSITIVITY.items():
            for value in values:
                settings = () if value == defaults[name] else ((name, value),)
                yield Cell(env, quality, f"{name} {jobs.plain(value)}", "dom2", settings)
