"""Train behaviour policies locally, into a folder that is either complete or absent."""

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
    """Train behaviour policies from scratch; the folder ``out`` appears once all of them are complete.

    With ``new_prey`` they are trained against a new prey, and work only with that one. Continues what an
    interrupted call with the same arguments left in ``<out>.partial``. Returns the folder's ``zoo.json``
    entry. Raises UserError for ``new_prey`` in an environment without prey and, without ``force``, when
    ``out`` exists or was begun with other arguments.
    """
    named.remember(env)
    envs.spec(env)  # refuse an unknown name before any file is created
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
    # ``new_prey`` itself is noted, because the spec depends on the new prey's weights, not yet known.
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
    unfinished.rename(out)  # still with its note, so that a kill before this line loses nothing
    (out / noted.name).unlink()
    shutil.rmtree(replaced, ignore_errors=True)
    return entry


def _require_a_prey(env: str) -> None:
    from dom2data.training import recipe

    if recipe(env).prey is None:
        raise UserError(f"expected an environment with a prey (tag, world) with --new-prey, found {env}")


def retrained(env: str, seed: int, base: Path, progress: Progress = quiet) -> Path:
    """Return the folder of checkpoints trained locally with ``seed``; train them if it does not exist.

    The prey is the shipped one, because it is part of the environment.
    """
    found = folder(env, seed, base)
    if not found.exists():
        # An unfinished folder of this name with another note comes from other versions: discard it.
        train(env, seed, found, progress, force=True)
    return found


def folder(env: str, seed: int, base: Path) -> Path:
    """Return the folder where ``retrained`` keeps its checkpoints."""
    spec = envs.spec(env)
    own = f"-{spec.fingerprint[:8]}" if envs.is_foreign(env) else ""  # users' environments may share a title
    return base / ".dom2data" / "zoo" / f"{spec.env_id}{own}-s{seed}"
