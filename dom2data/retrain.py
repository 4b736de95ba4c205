"""Behaviour policies trained here instead of shipped, in a folder that is either complete or absent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from dom2data import envs, named, recipes
from dom2data.convert.staging import claimed
from dom2data.errors import UserError
from dom2data.spec import Progress, quiet
from dom2data.store.stage import read_note, write_note


def train(
    env: str,
    seed: int,
    out: Path,
    progress: Progress = quiet,
    *,
    force: bool = False,
    new_prey: bool = False,
) -> dict[str, Any]:
    """Behaviour policies from nothing, into a folder that appears when all of them are there.

    With ``new_prey`` they are trained against a prey of their own, and are of use with no other.
    What an interrupted call left in ``<out>.partial`` is continued when it was begun alike.
    Returns its entry of ``zoo.json``. Raises UserError for a ``new_prey`` where there is none and, without
    ``force``, when ``out`` exists or was begun otherwise.
    """
    named.remember(env)
    envs.spec(env)  # an unknown name must leave nothing behind
    if new_prey:
        _require_a_prey(env)
    if out.exists() and not force:
        raise UserError(f"expected a new folder, found {out}; --force replaces it, --out names another")
    if out.exists() and not (out / "zoo.json").is_file():
        raise UserError(
            f"expected a folder of policies to replace, found other files in {out}; choose another"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with claimed(out):
        return _train(env, seed, out, progress, force, new_prey)


def _train(env: str, seed: int, out: Path, progress: Progress, force: bool, new_prey: bool) -> dict[str, Any]:
    from dom2data import behaviour

    unfinished, replaced = (out.with_name(out.name + end) for end in (".partial", ".replaced"))
    # The prey's weights decide what is learned, and its spec cannot be asked for before it exists.
    asked = {"env": env, "seed": seed, "new_prey": new_prey, "versions": recipes.versions()}
    asked |= {"recipe": repr(behaviour.recipe(env)), "fingerprint": envs.spec(env).fingerprint}
    noted = unfinished / "asked.json"
    found = read_note(noted)
    if found is not None and found != asked and not force:
        other = ", ".join(f"{k} {v}" for k, v in found.items() if v != asked.get(k))
        raise UserError(
            f"expected to continue {out} as it was begun ({other}), found another; "
            "finish that one first, --out names another, or --force discards it"
        )
    if found != asked:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write_note(noted, asked)
    done = read_note(unfinished / "zoo.json")  # written last
    entry = done[env] if done else behaviour.train(env, seed, unfinished, progress, new_prey=new_prey)
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists():
        out.rename(replaced)
    unfinished.rename(out)  # with its note, so that a kill before this loses nothing
    (out / noted.name).unlink()
    shutil.rmtree(replaced, ignore_errors=True)
    return entry


def _require_a_prey(env: str) -> None:
    from dom2data.training import recipe

    if recipe(env).prey is None:
        raise UserError(f"expected an environment with a prey (tag, world) with --new-prey, found {env}")


def retrained(env: str, seed: int, base: Path, progress: Progress = quiet) -> Path:
    """The folder of checkpoints trained here with ``seed``; trained now if they are not there.

    The prey is the shipped one: it is part of the environment.
    """
    found = folder(env, seed, base)
    if not found.exists():
        # One of this name that was begun otherwise is of other versions, and cannot be finished.
        train(env, seed, found, progress, force=True)
    return found


def folder(env: str, seed: int, base: Path) -> Path:
    """Where ``retrained`` keeps its checkpoints."""
    spec = envs.spec(env)
    own = f"-{spec.fingerprint[:8]}" if envs.is_foreign(env) else ""  # titles of users' own may be alike
    return base / ".dom2data" / "zoo" / f"{spec.env_id}{own}-s{seed}"
