"""The folder of a run: its settings, its progress and its results.

``config.json`` describes the run completely; ``status`` holds one word; ``metrics.jsonl``, ``tensorboard/``,
``checkpoint/`` and, once evaluated, ``evaluation.json`` are in the same folder.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dom2 import algorithms, standardised
from dom2 import config as configs
from dom2data import envs, named, stats
from dom2data.dataset import Dataset
from dom2data.errors import CHECK_FAILED, FAILED, UserError
from dom2data.new_file import replacing
from dom2data.sampler import Thresholds, emphasis
from dom2data.spec import EnvSpec, differences
from dom2data.store import lock

if TYPE_CHECKING:
    import torch

SCHEMA = 1
LOCK = ".lock"
Device = Literal["cpu", "cuda"]
Status = Literal["new", "running", "complete", "interrupted", "failed"]


@dataclass(frozen=True)
class Settings:
    """How an algorithm is run; its own hyper-parameters are in a separate config."""

    algorithm: str = "dom2"
    """dom2, bc, ma-td3+bc, ma-cql, omar, cfcql, ma-iql, ma-icq, omiga, ma-sfbc, ma-diffusion-ql, madiff, or
    file.py:Class of your own."""
    updates: int = 2_500
    """Gradient updates for each agent and seed; --preset wide: 100,000 and more."""
    batch_size: int = 256
    """B, transitions in a minibatch of one agent."""
    seeds: int = 1
    """Independent seeds trained as one stack."""
    seed: int = 0
    """The first seed; the others are the numbers after it."""
    augment: Literal["auto", "quantile", "score", "absolute", "none"] = "auto"
    """Which thresholds replicate good trajectories (Algorithm 1); auto: quantile for dom2, else none."""
    thresholds: tuple[float, ...] | None = None
    """Values of the thresholds, instead of the default ones of --augment."""
    standardise: Literal["auto", "on", "off"] = "auto"
    """Standardise observations by the data's moments; auto: on for halfcheetah except with MADiff (which
    scales them itself), else off."""
    data: Literal["memory", "mapped", "stream"] = "memory"
    """Where minibatches are drawn from: memory, files on disk (same draws), or a few blocks at a time."""
    stream_blocks: int = 16
    """Blocks of the dataset kept in memory with --data stream; the draws depend on this number."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks live; auto: a GPU if there is one."""
    graph: bool = False
    """Record each update as a CUDA graph; on a GPU only, and not yet measured on one."""
    threads: int = 1
    """CPU threads; results are bitwise repeatable for the same number."""
    log_every: int = 100
    """Updates between logged lines of metrics."""
    checkpoint_every: int = 1000
    """Updates between checkpoints."""
    eval_every: int = 0
    """Updates between evaluations while training; 0 turns them off."""
    eval_episodes: int = 100
    """Episodes of each seed in an evaluation while training."""

    def __post_init__(self) -> None:
        for name in (
            "updates",
            "batch_size",
            "seeds",
            "stream_blocks",
            "threads",
            "log_every",
            "checkpoint_every",
            "eval_episodes",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected 1 or more, found {getattr(self, name)}")
        if min(self.seed, self.eval_every) < 0:
            found = f"seed {self.seed}, eval_every {self.eval_every}"
            raise UserError(f"seed, eval_every: expected 0 or more, found {found}")


OLDER = {"standardise": "off"}
"""Values for runs that are older than the setting."""
OLDER_CONFIGS: dict[str, dict[str, Any]] = {"ma-diffusion-ql": {"candidates": 1}}
"""The same for the algorithms' configs."""


class Run:
    """A run's folder and its parsed ``config.json``."""

    def __init__(self, folder: Path, document: dict[str, Any]):
        self.folder, self.document = folder, document
        data: dict[str, Any] = document["dataset"]
        named_by = (*(data[name] for name in ("id", "hash", "env")), *document["versions"].values())
        if not all(isinstance(name, str) for name in named_by) or not isinstance(document["config"], dict):
            raise TypeError(named_by)
        float(data["return"]["mean"])
        if own := data.get("references"):  # older runs lack them
            float(own["random"]), float(own["expert"])
        document["settings"] = asdict(Settings()) | OLDER | document["settings"]
        self.settings: Settings = configs.build(Settings, document["settings"])
        self.spec = EnvSpec.from_json(document["spec"])

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    @property
    def status(self) -> Status:
        path = self.folder / "status"
        return path.read_text().strip() if path.exists() else "new"  # type: ignore[return-value]

    @status.setter
    def status(self, word: Status) -> None:
        write(self.folder / "status", word + "\n")

    def build(self, device: torch.device, learning: Sequence[torch.Generator]) -> algorithms.Learner:
        """Make the run's algorithm, untrained; ``learning`` has a generator for each seed.

        Raises UserError (code 3) for an algorithm in a file that no user has named here.
        """
        name = self.settings.algorithm
        named.require(name, f"`dom2 fit --algorithm {name} --dataset ID --print-config` allows it")
        kind = algorithms.load(self.settings.algorithm)
        older = OLDER_CONFIGS.get(name, {})
        try:
            settings = configs.build(kind.config_type, older | self.document["config"])
        except (UserError, ValueError) as error:  # it was valid when the run began
            raise UserError(f"{self.folder / 'config.json'}: {error}; fit again", CHECK_FAILED) from error
        algorithm = algorithms.create(kind, settings, self.spec, self.settings.seeds, device, learning)
        if self.settings.standardise == "off":
            return algorithm
        return standardised.Standardised(algorithm, self.document["observations"])

    def amend(self, mismatch: list[dict[str, Any]] | None = None, **settings: Any) -> None:
        """Change settings that leave past updates valid, such as the number of updates, and the recorded
        differences of the environment.

        Raises UserError like ``held``, since a process that fits the run has read its settings already, and
        like ``unchanged``.
        """
        with held(self.folder):
            self.unchanged()
            self.document["settings"] |= settings
            self.document |= {} if mismatch is None else {"mismatch": mismatch}
            self.settings = configs.build(Settings, self.document["settings"])
            write(self.folder / "config.json", json.dumps(self.document, indent=2) + "\n")

    def unchanged(self) -> None:
        """Raise UserError if the folder now holds another run, replaced or amended in the meantime."""
        there, here = read(self.folder).document, json.loads(json.dumps(self.document))
        if any(there[key] != here[key] for key in ("created", "settings", "config")):
            raise UserError(
                f"expected {self.folder} as it was a moment ago, found another run in its place; "
                "give the command again",
                FAILED,
            )


def held(folder: Path) -> AbstractContextManager[None]:
    """While entered, no other process can fit or replace the run. Raises UserError if one does already."""
    otherwise = f"expected {folder} to be free, found another process fitting it; wait for it"
    # ``results.state`` takes the lock only for a moment.
    return lock.held(folder / LOCK, otherwise, timeout=1)


def resolved(settings: Settings, env: str) -> Settings:
    """Replace ``auto`` by its meaning in the settings that decide the result."""
    augment, standardise = settings.augment, settings.standardise
    if augment == "auto":
        augment = algorithms.load(settings.algorithm).augment
    if standardise == "auto":
        standardise = standardised.default(settings.algorithm, env)
    return replace(settings, augment=augment, standardise=standardise)


def actual_device(asked: str, otherwise: str = "--device cpu makes a run without") -> Device:
    """What ``--device`` means here. Raises UserError, ending with ``otherwise``, if that is not available."""
    found = usable_device(asked)
    if asked == "cuda" and found != "cuda":
        raise UserError(f"expected a CUDA device, found none; {otherwise}")
    return found


def usable_device(asked: str) -> Device:
    """Like ``actual_device``, but fall back to the CPU."""
    import torch

    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def describe(
    settings: Settings, config: Any, dataset: Dataset, command: list[str], allow_mismatch: bool = False
) -> dict[str, Any]:
    """Make a new run's document: everything that decides its result. Raises UserError like ``mismatch``."""
    named.remember(settings.algorithm)
    returns = stats.summary(dataset.returns)
    settings = replace(resolved(settings, dataset.env), device=actual_device(settings.device))
    assert settings.augment != "auto"
    seen = {"observations": standardised.moments(dataset)} if settings.standardise == "on" else {}
    return {
        "schema": SCHEMA,
        "settings": asdict(settings),
        "config": asdict(config),
        "dataset": {
            "id": dataset.id,
            "hash": dataset.hash,
            "env": dataset.env,
            "quality": dataset.quality,
            "steps": len(dataset),
            "episodes": dataset.n_episodes,
            "return": {"mean": returns["mean"], "std": returns["std"]},
            "references": (dataset.manifest.get("references") or {}).get("own"),
        },
        "draws": emphasis(dataset, Thresholds(settings.augment, settings.thresholds)),
        "spec": dataset.spec.to_json(),
        "mismatch": mismatch(dataset.spec, dataset.env, allow_mismatch),
        "versions": versions(),
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    } | seen


def mismatch(spec: EnvSpec, env: str, allow: bool = False) -> list[dict[str, Any]]:
    """List how the installed environment differs from the data's: each ``fact`` with its value in the data
    (``expected``) and in the installed one (``found``). An environment that is not installed differs, too.

    Raises UserError (code 3), naming the first, unless ``allow``; and in any case if networks do not fit.
    """
    try:
        named.environment(env)
        installed = envs.spec(env)
    except (ValueError, UserError) as error:
        if allow:
            return [{"fact": "environment", "expected": env, "found": None}]
        hint = "dom2 fit --allow-mismatch learns from the data alone"
        raise UserError(f"{error}; {hint}", CHECK_FAILED) from error
    names = ("fact", "expected", "found")
    found = [dict(zip(names, each, strict=True)) for each in differences(spec.facts, installed.facts)]
    if found and not allow:
        first, others = found[0], f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(
            f"expected {env} as in the data, {first['fact']} = {json.dumps(first['expected'])}, "
            f"found {json.dumps(first['found'])}{others}; returns would not be comparable "
            "(--allow-mismatch goes on and notes it)",
            CHECK_FAILED,
        )
    shapes = [(s.obs_dims, s.act_dim) for s in (spec, installed)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{env}: expected observations and actions of sizes {shapes[0]}, found {shapes[1]}; "
            "install the version that the data came from",
            CHECK_FAILED,
        )
    return found


def versions() -> dict[str, str]:
    """Versions of what the results may depend on besides the settings."""
    packages = ("dom2", "torch", "numpy", "scipy", "numba", "zarr", "safetensors")
    found = {"python": platform.python_version(), "platform": platform.platform()} | {
        name: importlib.metadata.version(name) for name in packages
    }
    return found | commit(Path(__file__).resolve().parent.parent)


def commit(checkout: Path) -> dict[str, str]:
    """Return ``commit`` if this code runs from a git checkout, with a ``+`` if files in it have changed."""
    if not (checkout / ".git").exists():
        return {}
    try:
        call = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return {"commit": subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()}
    except (OSError, subprocess.CalledProcessError):  # no git, or someone else's checkout
        return {}


def create(folder: Path, document: dict[str, Any], force: bool = False) -> Run:
    """Make a new run folder. Raises UserError like ``free`` and ``held``."""
    free(folder, force)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        free(folder, force)  # another command may have made one since
        clear(folder)
        write(folder / "config.json", json.dumps(document, indent=2) + "\n")
    return Run(folder, document)


def free(folder: Path, force: bool) -> None:
    """Raise UserError if a folder holds a run (without ``force``) or other files."""
    if is_run(folder):
        if not force:
            raise UserError(
                f"expected a new folder, found a run in {folder}; --force replaces it, --resume continues it"
            )
    elif folder.exists() and not empty(folder):
        raise UserError(f"expected a new folder or a run, found other files in {folder}; choose another")


def is_run(folder: Path) -> bool:
    """Return whether this is a run's folder, not that of another program with a ``config.json``."""
    try:
        document = json.loads((folder / "config.json").read_text())
        return {"schema", "settings", "config", "dataset"} <= set(document)
    except ValueError:  # damaged
        return (folder / "status").exists() or (folder / "checkpoint").exists()
    except (OSError, TypeError):
        return False


def empty(folder: Path) -> bool:
    """Return whether a folder holds nothing but leftovers of locks and failed writes."""
    return folder.is_dir() and all(
        path.name == LOCK or (path.suffix == ".partial" and path.name.startswith(".config.json."))
        for path in folder.iterdir()
    )


def clear(folder: Path) -> None:
    """Remove everything but the lock, which is held; ``config.json``, which makes it a run, goes last."""
    for path in sorted(folder.iterdir(), key=lambda each: each.name == "config.json"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def read(folder: Path) -> Run:
    """Read an existing run. Raises UserError if there is none, or it is damaged or of another schema."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"expected a run folder, found no {path}; dom2 fit --dataset ID --out {folder} makes one"
        )
    try:
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise UserError(f"expected schema {SCHEMA}, found {document['schema']}; use its version")
        return Run(folder, document)
    except UserError as error:
        raise UserError(f"{path}: {error}", CHECK_FAILED) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path}: expected a run's configuration, found {error!r}; fit again"
        raise UserError(message, CHECK_FAILED) from error


def default_folder(dataset: Dataset, algorithm: str) -> Path:
    """Return ``runs/<dataset>-<algorithm>``, with a number if that exists."""
    stem = Path(algorithm.split(":")[0]).stem
    base = f"{dataset.id.split('/')[-1]}-{stem}"
    for number in range(1, sys.maxsize):
        folder = Path("runs") / (base if number == 1 else f"{base}-{number}")
        if not folder.exists():
            return folder
    raise AssertionError


def write(path: Path, text: str) -> None:
    """Replace a small file atomically; several processes may do so at once."""
    with replacing(path, f".{os.getpid()}") as partial:
        partial.write_text(text)
