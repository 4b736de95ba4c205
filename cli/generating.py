"""The work of ``dom2data generate``, for one dataset or for many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dom2_cli import describe
from dom2_cli import show as ui
from dom2data.errors import FAILED, INTERRUPTED, UserError

if TYPE_CHECKING:
    from dom2_cli.options import Where
    from dom2data.dataset import Dataset
    from dom2data.executors import Executor
    from dom2data.plan import Plan, State

ALL = "all"


@dataclass(frozen=True)
class Asked:
    """The options of ``generate``, except those for where the work is done."""

    env: str
    quality: str
    steps: int | None
    seed: int
    out: str | None
    root: Path | None
    store: str
    shard: str | None
    checkpoints: Path | None
    retrain: bool
    dry_run: bool
    rehash: bool
    force: bool
    as_json: bool
    there: str | None = None
    """the URL that new datasets are sent to; datasets already there are kept, and their ids count as taken"""

    @property
    def envs(self) -> Sequence[str]:
        from dom2data import envs

        return envs.NAMES if self.env == ALL else self.env.split(",")

    @property
    def qualities(self) -> Sequence[str]:
        from dom2data import recipes

        return tuple(recipes.QUALITIES) if self.quality == ALL else self.quality.split(",")

    @property
    def many(self) -> bool:
        return len(self.envs) * len(self.qualities) > 1

    def words(self, env: str) -> Iterator[dict[str, Any]]:
        """Yield the arguments for each quality; among many, qualities with a fixed size ignore ``steps``."""
        from dom2data import recipes

        for quality in self.qualities:
            sized = self.many and recipes.quality(quality).replay
            steps = None if sized else self.steps
            yield {"env": env, "quality": quality, "steps": steps, "seed": self.seed, "out": self.out}


def plans(asked: Asked) -> list[Plan]:
    """Return every plan; with ``--retrain``, first train the policies that they need."""
    from dom2_policies import zoo
    from dom2data import generate

    if asked.many and asked.out:
        raise UserError(f"expected no --out with many datasets (each has its own id), found {asked.out}")
    if asked.retrain and asked.checkpoints:
        raise UserError("expected --retrain or --checkpoints, found both; choose one")
    folders = dict.fromkeys(asked.envs, asked.checkpoints or zoo.FOLDER)
    if asked.retrain:
        folders |= trained(asked)
    return [
        generate.plan(**words, root=asked.root, checkpoints_in=folders[env])
        for env in asked.envs
        for words in asked.words(env)
    ]


def trained(asked: Asked) -> dict[str, Path]:
    """Return each environment's folder of retrained policies; train missing ones, except in a dry run.

    Everything that can be checked without the policies is checked before any training, so that a wrong
    option or a taken id costs no time.
    """
    from dom2data import ids, retrain
    from dom2data.plan import words

    base = ids.root(asked.root)
    targets = {env: [words(**each)[1] for each in asked.words(env)] for env in asked.envs}
    folders = {env: retrain.folder(env, asked.seed, base) for env in asked.envs}
    missing = [env for env, folder in folders.items() if not folder.exists()]
    if asked.dry_run:
        return {env: folder for env, folder in folders.items() if env not in missing}
    for env in missing if not asked.force else ():
        for quality, dataset_id in zip(asked.qualities, targets[env], strict=True):
            # Among many, a dataset that needs no policies may already be the one wanted: it is kept.
            taken = _taken(dataset_id, base, asked.there)
            if taken and not (asked.many and _without_policies(quality)):
                raise UserError(f"expected a new id, found {dataset_id} in {taken}; --force replaces it")
    for env in missing:
        with ui.progress_bar() as progress:
            retrain.retrained(env, asked.seed, base, progress)
    return folders


def _taken(dataset_id: str, base: Path, there: str | None) -> Path | str | None:
    """Return the root at which a dataset with this id exists, if any."""
    from dom2data.store.remote import Place

    if (base / dataset_id).exists():
        return base
    return there if there and Place(there).source(dataset_id).complete else None


def _without_policies(quality: str) -> bool:
    """Whether a dataset of this quality is independent of the checkpoints."""
    from dom2data import recipes

    return {name for name, _ in recipes.quality(quality).parts} <= {recipes.UNIFORM}


def one(asked: Asked, todo: Plan, where: Where) -> Dataset | None:
    """Print a plan and execute it; a complete dataset that is only to be sent or converted is kept."""
    from dom2data import dataset
    from dom2data.plan import state

    workers = where.count(todo.best_workers())
    click.echo(describe.plan(todo, workers, asked.retrain), err=not asked.dry_run)
    if asked.dry_run:
        return None
    kept = asked.there or asked.store == "minari"
    if kept and not asked.force and state(todo) == "complete":
        ui.note(f"{todo.dataset_id} is already complete: kept")
        return dataset.open(todo.dataset_id, todo.base)
    if not asked.force and (base := todo.home(asked.there).base) == asked.there:
        raise UserError(
            f"expected a new id, found {base}/{todo.dataset_id}; --force replaces it, --out names another"
        )
    return carry_out(todo, where.made(todo.best_workers(), todo.threads), asked.force)


def shard(asked: Asked, todo: Sequence[Plan], where: Where) -> None:
    """Collect one shard of a dataset and print the next step."""
    from dom2data import shards

    k, n = shards.parse(asked.shard or "")
    if len(todo) > 1:
        raise UserError(f"expected one dataset with --shard, found {len(todo)}; name one --env and --quality")
    plan = todo[0]
    workers = where.count(plan.best_workers())
    click.echo(describe.plan(plan, workers, retrain=False), err=not asked.dry_run)
    if asked.dry_run:
        return
    executor = where.made(plan.best_workers(), plan.threads)
    with ui.progress_bar() as progress, resumable("every finished block is", plan):
        folder, blocks = shards.collect(plan, k, n, executor=executor, force=asked.force, progress=progress)
    facts = {"id": plan.dataset_id, "shard": f"{k}/{n}", "blocks": blocks, "folder": str(folder)}
    ui.print_json(facts) if asked.as_json else click.echo(ui.rows({key: str(f) for key, f in facts.items()}))
    ui.note(f"next, once all {n} shards are done: dom2data merge {plan.dataset_id}")


def merge(
    name: str, others: Sequence[Path], checkpoints: Path | None, force: bool, root: Path | None
) -> Dataset:
    """Merge the shards of a dataset id from its root and from others."""
    from dom2_policies import zoo
    from dom2data import ids, shards

    base = ids.root(root)
    found = shards.found(ids.full(name), [base, *(other.absolute() for other in others)])
    plan = shards.planned(found, base, checkpoints or zoo.FOLDER)
    with ui.progress_bar() as progress, resumable("every block is", plan):
        return shards.merge(plan, found, force=force, progress=progress)


def for_minari(made: Sequence[str], root: Path | None, force: bool) -> None:
    """Write the Minari HDF5 copies of datasets, unless they exist."""
    from dom2data import dataset, ids
    from dom2data.convert import minari

    base = ids.root(root)
    for dataset_id in made:
        ui.note(f"Minari copy of {dataset_id}, in HDF5")
        path = minari.copy(dataset.open(dataset_id, base), base, force)
        ui.note(f"open it with minari.load_dataset({path.relative_to(base).as_posix()!r})")


def many(asked: Asked, todo: Sequence[Plan], where: Where) -> list[dict[str, Any]]:
    """Print the plans as a table, execute those whose datasets are missing, and return the records of all.

    After a failure the remaining datasets are still made. Raises UserError: code 2, before anything is made,
    when ids are taken by other recipes; 1 at the end, when some failed.
    """
    from dom2data import catalog, dataset
    from dom2data.plan import state

    homes = {plan.dataset_id: plan.home(asked.there) for plan in todo}
    states = {dataset_id: state(home, asked.rehash) for dataset_id, home in homes.items()}
    workers = {plan.dataset_id: where.count(plan.best_workers()) for plan in todo}
    describe.plans(todo, states, workers, err=not asked.dry_run)
    if asked.dry_run:
        return []
    taken = [plan.dataset_id for plan in todo if states[plan.dataset_id] == "other"]
    if taken and not asked.force:
        bases = dict.fromkeys(str(homes[dataset_id].base) for dataset_id in taken)
        raise UserError(
            f"expected new ids, found {', '.join(taken)} in {' and '.join(bases)}, of other recipes; "
            "--force replaces them"
        )
    records, failed = [], []
    for plan in todo:
        try:
            if asked.force or states[plan.dataset_id] != "complete":
                again = asked.force or states[plan.dataset_id] == "damaged"
                carry_out(plan, where.made(workers[plan.dataset_id], plan.threads), again)
                homes[plan.dataset_id] = plan
            made = dataset.open(plan.dataset_id, homes[plan.dataset_id].base)
            records.append(catalog.summary(made.manifest, asked.there or plan.base))
            ui.note(_done(records[-1], states[plan.dataset_id], asked.force))
        except UserError as error:
            if error.code == INTERRUPTED:
                raise
            failed.append(plan.dataset_id)
            ui.note(f"{plan.dataset_id} failed: {error}")
    if failed:
        raise UserError(
            f"expected {len(todo)} datasets, found {len(records)}, without {', '.join(failed)} "
            "(reasons above); the same command tries them again",
            FAILED,
        )
    return records


def _done(record: dict[str, Any], before: State, force: bool) -> str:
    if before == "complete" and not force:
        return f"{record['id']} is already complete: kept"
    again = " (it was damaged)" if before == "damaged" else ""
    return f"{record['id']} made in {ui.duration(record['wall_s'])}{again}"


def carry_out(plan: Plan, executor: Executor, force: bool) -> Dataset:
    """Generate with a progress bar; an interrupt says what was kept."""
    from dom2data import recipes
    from dom2data.generate import generate

    if plan.recipe.policies and not recipes.trained_in(plan.spec, plan.recipe.env, plan.zoo):
        ui.note(
            f"the policies in {plan.zoo} were trained in another version of {plan.recipe.env}, for example "
            "before its file was edited: the dataset gets no reference returns from them; `dom2data train` "
            "trains policies in this version"
        )
    kept = "the state of training, saved every minute, is" if plan.replay else "every finished block is"
    with ui.progress_bar() as progress, resumable(kept, plan):
        return generate(plan, executor=executor, force=force, progress=progress)


@contextmanager
def resumable(kept: str, plan: Plan) -> Iterator[None]:
    """Turn an interrupt into a UserError that says what was kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise UserError(
            f"{plan.dataset_id}: interrupted; {kept} kept, the same command continues", INTERRUPTED
        ) from error


def finish(made: Dataset, root: Path | str | None, as_json: bool = False) -> None:
    """Print the result of a command that made a dataset."""
    from dom2data import catalog, ids

    summary = catalog.summary(made.manifest, ids.place(root))
    if as_json:
        ui.print_json(summary)
    else:
        click.echo(ui.rows(describe.headline(summary)))
    ui.note(f"next: dom2 fit --dataset {made.id}")
