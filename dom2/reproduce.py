"""A target's grid: find which of its datasets, runs and evaluations exist, and make the others.

Every cell has a run folder at ``<runs>/<scale>/<dataset>/<algorithm>``, shared by all targets. Existing
results are never made again, so a grid can be stopped, killed, or worked on in any order.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dom2 import experiments, fit, jobs
from dom2.experiments import Cell, Scale
from dom2.jobs import Job
from dom2.run import Settings
from dom2data import dataset as datasets
from dom2data import ids, recipes, subsample
from dom2data.spec import Progress, quiet

SHARE, LEAST = 25, 4
"""an evaluation while training has 1 / SHARE of the final one's episodes, but at least LEAST (or all)"""


@dataclass(frozen=True)
class Grid:
    """The cells of a target at a scale."""

    target: str
    scale_name: str
    cells: tuple[Cell, ...]
    seeds: int
    runs: Path
    root: Path | None = None

    @property
    def scale(self) -> Scale:
        return experiments.SCALES[self.scale_name]

    @property
    def base(self) -> Path:
        """Folder of this scale's runs."""
        return self.runs / self.scale_name

    def folder(self, cell: Cell) -> Path:
        """Folder of a cell's run; its name includes the number of seeds if that is not the scale's."""
        own = () if self.seeds == self.scale.seeds else (("seeds", self.seeds),)
        return self.base / cell.folder(*own)

    def dataset(self, cell: Cell) -> str:
        """The short id of a cell's whole dataset; a dataset of reduced size has the scale in its name."""
        reduced = self.scale.steps and not recipes.quality(cell.quality).replay
        return f"{cell.env}-{cell.quality}" + (f"-{self.scale_name}" if reduced else "")

    def share(self, cell: Cell) -> str:
        """The short id of the dataset, or of the fraction of it, that a cell learns from."""
        if cell.fraction == 1.0:
            return self.dataset(cell)
        name = subsample.default_id(ids.full(self.dataset(cell)), subsample.Selection(fraction=cell.fraction))
        return ids.split(name)[1]

    def jobs(self) -> list[Job]:
        """One job for each folder of the grid."""
        found: dict[Path, Job] = {}
        for cell in self.cells:
            found.setdefault(self.folder(cell), self._job(cell))
        return list(found.values())

    def _job(self, cell: Cell) -> Job:
        updates, episodes = self.scale.updates_of(cell), self.scale.episodes_of(cell)
        own = {field.name for field in fields(Settings)}
        hyper = {name: value for name, value in cell.settings if name not in own}
        hyper = self.scale.stages.get(cell.algorithm, {}) | hyper
        settings = jobs.schedule(updates) | {
            "algorithm": cell.algorithm,
            "batch_size": self.scale.batch_size,
            "seeds": self.seeds,
            "eval_every": max(1, updates // self.scale.evaluations),
            "eval_episodes": max(episodes // SHARE, min(episodes, LEAST)),
        }
        return Job(
            folder=self.folder(cell),
            env=cell.env,
            dataset=self.share(cell),
            root=self.root,
            settings=settings | {name: value for name, value in cell.settings if name in own},
            config=asdict(fit.configure(cell.algorithm, self.scale.preset, cell.env, cell.quality, hyper)),
            shifts=experiments.TARGETS[self.target].shifts,
            episodes=self.scale.episodes_of(cell),
            command=("reproduce", self.target),
        )


def datasets_missing(grid: Grid) -> list[str]:
    """Short ids of the whole datasets that do not exist."""
    names = dict.fromkeys(map(grid.dataset, grid.cells))
    return [name for name in names if not jobs.available(name, grid.root)]


def prepare(grid: Grid, progress: Progress = quiet) -> None:
    """Generate the datasets that do not exist, and subsample the fractions that cells need."""
    for cell in {grid.share(cell): cell for cell in grid.cells}.values():
        name, part = grid.dataset(cell), grid.share(cell)
        jobs.supply(name, cell.env, cell.quality, grid.root, grid.scale.steps, progress)
        if part != name:
            with jobs.only_one(part, grid.root):
                if not jobs.available(part, grid.root):
                    subsample.subsample(datasets.open(name, grid.root), cell.fraction, root=grid.root)
