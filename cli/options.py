"""Options and arguments that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dom2data.executors import Executor


def _root(place: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    usual = "[$MINARI_DATASETS_PATH, ~/.minari/datasets]"
    return click.option("--root", type=click.Path(path_type=Path), help=f"{place} of datasets {usual}.")


def _force(replaces: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--force", is_flag=True, help=f"Replace {replaces}.")


root_option, place_option = _root("Folder"), _root("Folder or URL")
force_option = _force("what is there")
replace_option = _force("what is there, once the new one is complete")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
run_argument = click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
mismatch_option = click.option(
    "--allow-mismatch",
    is_flag=True,
    help="Go on although the environment is not the data's; the result says so.",
)


@dataclass(frozen=True)
class Where:
    """The options that say where jobs are done."""

    executor: str | None
    workers: int | None
    address: str | None
    gpus: float = 0.0

    def count(self, best: int) -> int:
        """Jobs at once, ``best`` where no number was asked for."""
        return self.workers or (1 if self.executor == "local" else best)

    def made(self, best: int, threads: bool = False) -> Executor:
        """The executor; ``best`` workers where none were asked for (on Ray, as many as it has cores)."""
        from dom2data import executors

        workers = self.workers or (0 if self.executor == "ray" else self.count(best))
        return executors.choose(self.executor, workers, self.address, self.gpus, threads)


def executor_options(named: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--executor`` and ``--address``; the number of workers has another name in some commands."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--address", help="Ray cluster: host:port, auto or ray://... [one started here]."),
            click.option("--executor", metavar="NAME", help=named),
        ):
            command = option(command)
        return command

    return add


def runs_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Of commands that make many runs: how many at once, where, and how often one is tried."""
    retries = click.option(
        "--retries",
        type=click.IntRange(0),
        default=1,
        show_default=True,
        help="How often a run that failed is tried again.",
    )
    gpus = click.option(
        "--gpus",
        type=click.FloatRange(0),
        default=0.0,
        show_default=True,
        help="GPUs of each run on Ray, such as 0.25.",
    )
    jobs = click.option(
        "--jobs",
        type=click.IntRange(1),
        help="Runs at once, on one thread each [one for each core; one on a GPU].",
    )
    executor = executor_options("local, processes or ray [processes, where more than one runs at once].")
    return jobs(executor(gpus(retries(command))))
