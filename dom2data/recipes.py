"""Definitions of the dataset qualities, and the recipe that determines a dataset's bytes.

Definitions follow the published offline datasets (Pan et al. 2022, OMAR; Fu et al. 2020, D4RL): random is
uniform actions; medium and expert are checkpoints with Gaussian exploration noise; the mixtures are half of
each, in whole episodes; medium-replay is the whole replay buffer when training reaches medium.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dom2_policies import zoo
from dom2data import envs, ids
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.spec import EnvSpec
from dom2data.store.manifest import SCHEMA

UNIFORM = "uniform"  # the only policy without a checkpoint
ARITHMETIC = 1
"""Version of ``dom2_policies.portable``; changes whenever its results may change."""


@dataclass(frozen=True)
class Quality:
    """Policies and their shares of the transitions, or a replay buffer."""

    parts: tuple[tuple[str, float], ...] = ()
    replay: bool = False


QUALITIES: dict[str, Quality] = {
    "random": Quality(((UNIFORM, 1.0),)),
    "random-medium": Quality(((UNIFORM, 0.5), ("medium", 0.5))),
    "medium-replay": Quality(replay=True),
    "medium": Quality((("medium", 1.0),)),
    "medium-expert": Quality((("medium", 0.5), ("expert", 0.5))),
    "expert": Quality((("expert", 1.0),)),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that a generated dataset's bytes depend on; equal recipes give equal content hashes."""

    env: str
    quality: str
    steps: int | None
    """transitions requested, rounded up to whole episodes; None: the size of the replay buffer"""
    seed: int
    noise: float
    """standard deviation of the Gaussian noise on the checkpoints' actions"""
    policies: dict[str, str]
    """checkpoint name -> sha256 of its file"""
    fingerprint: str
    """of the environment"""
    versions: dict[str, str]
    level: float | None = None
    """return at which medium-replay ends, from the folder of checkpoints, if none is published"""

    def to_json(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        return found if self.level is not None else {k: v for k, v in found.items() if k != "level"}


def quality(name: str) -> Quality:
    """Return the definition of a quality. Raises UserError for an unknown one."""
    if name not in QUALITIES:
        near = difflib.get_close_matches(name, QUALITIES, n=1)
        hint = f"did you mean {near[0]}?" if near else "choose one of them"
        raise UserError(f"expected a quality ({', '.join(QUALITIES)}), found {name!r}; {hint}")
    return QUALITIES[name]


def standard(name: str) -> tuple[str, str] | None:
    """Return (environment, quality) if ``name`` is a default dataset id such as tag-medium, else None."""
    space, short, version = ids.split(name)
    for env in envs.NAMES:
        quality_name = short.removeprefix(f"{env}-")
        if short != quality_name and quality_name in QUALITIES and space == ids.NAMESPACE and not version:
            return env, quality_name
    return None


def versions() -> dict[str, str]:
    """Return the versions that the bytes depend on: this package, schema, network arithmetic, libraries."""
    return {"schema": SCHEMA, "arithmetic": str(ARITHMETIC)} | {
        name: version(name) for name in ("dom2", "numpy", "torch")
    }


def entry(env: str, folder: Path = zoo.FOLDER) -> dict[str, Any]:
    """Return an environment's entry in a folder of checkpoints. Raises UserError when there is none."""
    try:
        return zoo.entry(env, folder)
    except ValueError as error:
        where = "" if folder == zoo.FOLDER else f" in {folder}"
        raise UserError(f"{error}{where}; {_training(env)}") from error


def medium_steps(env: str, folder: Path = zoo.FOLDER) -> int:
    """Return the training steps of the medium checkpoint. Raises UserError when there is none."""
    _file(env, "medium", folder)
    return entry(env, folder)["policies"]["medium"]["env_steps"]


def _file(env: str, name: str, folder: Path) -> Path:
    """Return a policy's checkpoint file. Raises UserError when there is no such policy."""
    entry(env, folder)
    try:
        return zoo.path(env, name, folder)
    except ValueError as error:
        raise UserError(f"{error}; {_training(env)}") from error


def _training(env: str) -> str:
    return f"`dom2data train --env {env} --out FOLDER` trains them, --checkpoints FOLDER uses them"


def checkpoints(env: str, quality_name: str, folder: Path = zoo.FOLDER) -> dict[str, Path]:
    """Return the checkpoint file of every trained policy that a quality needs, by name.

    Raises UserError: code 2 for an unknown policy, 3 for a file that is missing or whose hash has changed.
    """
    found = {}
    for name, _ in quality(quality_name).parts:
        if name != UNIFORM:
            found[name] = _file(env, name, folder)
            recorded = zoo.sha256(env, name, folder)
            if file_hash(found[name]) != recorded:
                raise UserError(
                    f"{found[name]}: expected sha256 {recorded}, found another file", CHECK_FAILED
                )
    return found


def require_prey(env: str, folder: Path) -> None:
    """Raises UserError (code 3) if a folder's policies were trained against another prey than the shipped.

    The prey is part of the environment, so these policies and their references belong to another one.
    """
    policies = entry(env, folder)["policies"]
    if "prey" in policies and policies["prey"]["sha256"] != zoo.sha256(env, "prey"):
        raise UserError(
            f"expected policies trained against the shipped prey of {env}, found those of another prey in "
            f"{folder}; `dom2data train --env {env}` without --new-prey trains them",
            CHECK_FAILED,
        )


def trained_in(spec: EnvSpec, env: str, folder: Path) -> bool:
    """Whether a folder's policies and references come from this very environment, as far as is recorded."""
    return entry(env, folder).get("fingerprint") in (None, spec.fingerprint)


def file_hash(path: Path) -> str:
    """Return a file's SHA-256 in hex. Raises UserError (code 3) when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"expected the checkpoint {path}, found {error.strerror}; reinstall", CHECK_FAILED
        ) from error
