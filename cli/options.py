"""Options and arguments shared by several commands."""

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
    return click.option("--force", is_flag=True, help=f"Overwrite {replaces}.")


root_option, place_option = _root("Folder"), _root("Folder or URL")
force_option = _force("existing output")
replace_option = _force("existing output, once the new output is complete")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
run_argument = click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
mismatch_option = click.option(
    "--allow-mismatch",
    is_flag=True,
    help="Continue even if the environment differs from the data's; the result records it.",
)


@dataclass(frozen=True)
class Where:
    """The options that determine where jobs run."""

    executor: str | None
    workers: int | None
    address: str | None
    gpus: float = 0.0

    def count(self, best: int) -> int:
        """The number of parallel jobs; ``best`` if the user gave no number."""
        return self.workers or (1 if self.executor == "local" else best)

    def made(self, best: int, threads: bool = False) -> Executor:
        """Return the executor; without a given number it has ``best`` workers (on Ray, one per core)."""
        from dom2data import executors

        workers = self.workers or (0 if self.executor == "ray" else self.count(best))
        return executors.choose(self.executor, workers, self.address, self.gpus, threads)


def executor_options(named: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--executor`` and ``--address``; the number of workers has a different name in some commands."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--address", help="Ray cluster: host:port, auto or ray://... [starts a local one]."),
            click.option("--executor", metavar="NAME", help=named),
        ):
            command = option(command)
        return command

    return add


def runs_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that make many runs: how many in parallel, where, and how many retries."""
    retries = click.option(
        "--retries",
        type=click.IntRange(0),
        default=1,
        show_default=True,
        help="How many times to retry a failed run.",
    )
    gpus = click.option(
        "--gpus",
        type=click.FloatRange(0),
        default=0.0,
        show_default=True,
        help="GPUs per run on Ray, such as 0.25.",
    )
    jobs = click.option(
        "--jobs",
        type=click.IntRange(1),
        help="Parallel runs, one thread each [one per core; one on a GPU].",
    )
    executor = executor_options("local, processes or ray [processes for several parallel runs, else local].")
    return jobs(executor(gpus(retries(command))))
