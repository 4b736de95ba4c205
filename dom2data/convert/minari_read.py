"""Read Minari datasets; copies of our own datasets give the same content hash again.

Observations and actions may be a Dict of one float Box per agent, one Box [N, O] and [N, A], or one vector
(a single agent). The agents' rewards are taken from ``infos/rewards`` ([T+1, N], where row 0 belongs to the
reset; or [T, N]), else from ``rewards`` [T, N] or [T] (the same for all).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dom2data import ids, stats
from dom2data.convert import described, files, minari_file
from dom2data.convert.ingest import Imported, as_float32, checked, clipped, refused
from dom2data.errors import UserError
from dom2data.spec import EnvSpec
from dom2data.store import minari as minari_metadata
from dom2data.store import schema
from dom2data.store.layout import laid_out
from dom2data.store.manifest import array_entries, content_hash, leaves

Raw = dict[str, Any]
"""One episode: arrays by path (``observations/<agent>``, ``rewards``, ...), and ``source`` where noted."""
EACH = "infos/rewards"
_MOST_AGENTS = 10_000


class Shape(NamedTuple):
    """What the spaces say: agents, sizes and bounds; without ``keyed``, agents are stacked in one array."""

    agents: tuple[str, ...]
    keyed: bool
    obs_dims: tuple[int, ...]
    act_dim: int
    act_low: float
    act_high: float

    @property
    def paths(self) -> list[str]:
        """Paths of the arrays that every episode must have."""
        both = ("observations", "actions")
        inside = [f"{name}/{agent}" for name in both for agent in self.agents] if self.keyed else both
        return [*inside, "rewards", "terminations", "truncations"]


def read(
    path: Path,
    *,
    root: Path | None = None,
    env: str | None = None,
    clip: bool = False,
    altered: str = "refuse",
) -> Imported:
    """Read a Minari dataset, given by its folder or, if that does not exist, by its id.

    ``env`` names the environment of this project that the data come from; ``clip`` clips actions to their
    bounds. Raises UserError: code 2 when the dataset does not exist, 3 when its form is not one of those
    above, or this project wrote it and it was changed since (unless ``altered`` is ``accept``).
    """
    if altered not in ("refuse", "accept"):
        raise UserError(f"expected altered=refuse or altered=accept, found altered={altered}")
    data = _data(Path(path), root)
    metadata = _metadata(data)
    shape = _shape(metadata)
    own = None if env is not None else _own(metadata)
    noted = [] if own is None else ["source", *own["further"]]
    left: list[str] = []
    if metadata["data_format"] == "hdf5":
        episodes = minari_file.episodes(data, metadata["total_episodes"], shape.paths, (EACH,), noted, left)
    elif metadata["data_format"] == "zarr":
        raise UserError(
            f"expected a dataset in Minari's formats, found one of dom2data's already: {data.parent}"
        )
    else:
        episodes = _through_minari(data, {*shape.paths, EACH}, left)
    arrays, notes = _arrays(shape, episodes, noted)
    notes += [f"not taken: {', '.join(left[:10])}{', ...' * (len(left) > 10)}"] if left else []
    used = {file.name: file for file in sorted(data.iterdir()) if file.is_file()}
    options = {"env": env, "clip": clip, "altered": altered}
    origin = {
        "format": "minari",
        "dataset_id": str(metadata.get("dataset_id")),
        "files": files.sha256(used),
        "options": options,
    }
    if own is not None:
        return _ours(own, arrays, notes, origin, altered)
    spec = _spec(metadata, shape, arrays) if env is None else _spec_of(env, shape)
    if env is None:
        notes.insert(0, f"environment {spec.env_id}: {spec.reward} rewards, horizon {spec.horizon}")
    if finding := schema.spec(spec.to_json()):
        raise refused(finding)
    if clip:
        arrays["actions"], says = clipped(spec, arrays["actions"])
        notes.append(says)
    return Imported(spec, arrays, tuple(notes), origin, env=env or spec.env_id)


def _data(path: Path, root: Path | None) -> Path:
    for folder in (path / "data", path, ids.root(root) / path / "data"):
        if (folder / minari_metadata.FILE).is_file():
            return folder
    raise UserError(f"expected a Minari dataset, found none at {path} or below {ids.root(root)}; "
                    "see `minari list local`")  # fmt: skip


def _metadata(data: Path) -> dict[str, Any]:
    try:
        text = (data / minari_metadata.FILE).read_text()
        found = json.loads(text, parse_constant=lambda name: None)  # a manifest holds no NaN either
    except (OSError, ValueError, RecursionError) as error:
        raise refused(f"{data}: expected a readable metadata.json, found {error}") from error
    kinds = {"data_format": str, "total_episodes": int, "observation_space": str, "action_space": str}
    for key, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), kind):
            raise refused(f"{data}/metadata.json: expected {key} as {kind.__name__}, found none")
    return found


def _shape(metadata: dict[str, Any]) -> Shape:
    try:
        obs, act = (json.loads(metadata[key]) for key in ("observation_space", "action_space"))
        keyed = obs["type"] == "Dict"
        if keyed:
            names = tuple(metadata.get("agents") or obs["subspaces"])
            if set(names) != set(obs["subspaces"]) or set(names) != set(act["subspaces"]):
                raise refused(
                    f"expected observations and actions of the same agents, found {sorted(obs['subspaces'])} "
                    f"and {sorted(act['subspaces'])}"
                )
            views = [_box(obs["subspaces"][name]) for name in names]
            moves = [_box(act["subspaces"][name]) for name in names]
        else:
            n = obs["shape"][0] if len(obs["shape"]) == 2 else 1
            if not 0 < n <= _MOST_AGENTS:
                raise refused(f"expected 1 to {_MOST_AGENTS:,} agents, found {n}")
            names = tuple(metadata.get("agents") or (f"agent_{i}" for i in range(n)))
            views, moves = [_box(obs, n)] * n, [_box(act, n)] * n
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise refused(f"expected spaces of Box or of Dict of Box, found others ({error!r})") from error
    kinds = sorted({(size, low, high) for size, low, high in moves})
    if len(names) != len(views) or len(kinds) != 1 or not np.isfinite(kinds[0]).all():
        raise refused(f"expected actions of one size and finite bounds for all agents, found {kinds}")
    (act_dim, low, high), sizes = kinds[0], tuple(size for size, _, _ in views)
    return Shape(names, keyed, sizes, act_dim, low, high)


def _box(space: dict[str, Any], n: int = 1) -> tuple[int, float, float]:
    """Return (size per agent, low, high) of a Box for n agents; bounds that differ count as infinite."""
    if space["type"] != "Box" or not space["dtype"].startswith("float"):
        raise refused(f"expected a Box of floats, found {space['type']} of {space.get('dtype', 'no dtype')}")
    size = math.prod(space["shape"])
    if size < 1 or size % n or (n > 1 and space["shape"][0] != n):
        raise refused(f"expected a Box with a row for each of {n} agents, found shape {space['shape']}")
    low, high = (np.unique(np.asarray(space[key], np.float32)) for key in ("low", "high"))
    return (
        size // n,
        float(low[0]) if len(low) == 1 else -np.inf,
        float(high[0]) if len(high) == 1 else np.inf,
    )


def _through_minari(data: Path, taken: set[str], left: list[str]) -> Iterator[Raw]:
    """Yield episodes of Minari's other formats (Arrow, Parquet), read by Minari itself; add the first one's
    paths that are not ``taken`` to ``left``."""
    try:
        import minari

        for i, episode in enumerate(minari.MinariDataset(data)):
            raw = dict(_leaves(vars(episode)))
            left += [path for path in raw if i == 0 and "/" in path and path not in taken]
            yield raw
    except (ImportError, KeyError, ValueError, AssertionError, OSError) as error:
        raise refused(f"{data}: expected a dataset that Minari opens, found: {error}") from error


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", value


def _arrays(
    shape: Shape, episodes: Iterator[Raw], noted: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return the store's arrays, and notes on what was changed."""
    joint: dict[str, list[Any]] = {"observations": [], "actions": [], "rewards": []}
    flags: dict[str, list[Any]] = {"terminated": [], "truncated": []}
    numbers: dict[str, list[Any]] = {name: [] for name in noted}
    rounded: dict[str, str] = {}
    cut, sizes = 0, {"observations": shape.obs_dims, "actions": (shape.act_dim,) * len(shape.agents)}
    for i, raw in enumerate(episodes):
        where, steps = f"episode {i}", len(np.atleast_1d(raw["rewards"]))
        for name, rows in (("observations", steps + 1), ("actions", steps)):
            joint[name].append(_rows(shape, raw, name, rows, sizes[name], where, rounded))
        joint["rewards"].append(_rewards(len(shape.agents), raw, where, rounded))
        terminated, truncated = (np.asarray(raw[key], bool) for key in ("terminations", "truncations"))
        if {terminated.shape, truncated.shape} != {(steps,)} or (terminated | truncated)[:-1].any():
            raise refused(f"{where}: expected {steps} flags that are false but for the last, found others")
        cut += not (terminated[-1] or truncated[-1])
        flags["terminated"].append(terminated[-1])
        flags["truncated"].append(truncated[-1] or not terminated[-1])
        for name, values in numbers.items():
            if not isinstance(raw.get(name), np.integer):
                raise refused(f"{where}: expected a number as {name!r}, found {raw.get(name)!r}")
            values.append(raw[name])
    if not joint["rewards"]:
        raise refused("expected at least one episode, found none")
    arrays = {name: np.concatenate(parts) for name, parts in joint.items()}
    arrays |= {name: np.array(values, bool) for name, values in flags.items()}
    arrays["offsets"] = np.cumsum([0, *map(len, joint["rewards"])], dtype=np.int64)
    arrays |= {name: np.array(values, np.int64) for name, values in numbers.items()}
    notes = list(rounded.values())
    return arrays, notes + ([f"{cut} episodes ended without a flag: counted as truncated"] if cut else [])


def _rows(
    shape: Shape,
    raw: Raw,
    name: str,
    rows: int,
    sizes: tuple[int, ...],
    where: str,
    rounded: dict[str, str],
) -> NDArray[np.float32]:
    """Return one episode's array [rows, N, widest]; narrower agents are padded with zeros."""
    try:
        if shape.keyed:
            parts = [raw[f"{name}/{agent}"] for agent in shape.agents]
        else:
            parts = list(np.moveaxis(raw[name].reshape(rows, len(sizes), sizes[0]), 1, 0))
        parts = [part.reshape(rows, size) for part, size in zip(parts, sizes, strict=True)]
    except (KeyError, ValueError, AttributeError, OverflowError) as error:
        raise refused(f"{where}: expected {rows} {name} of sizes {sizes}, found: {error}") from error
    whole = (rows, len(sizes), max(sizes))
    files.affordable(f"{where}: {name}", whole, 4, sum(part.nbytes for part in parts))
    found = np.zeros(whole, np.float32)
    for n, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        if part.dtype.kind != "f":
            raise refused(f"{where}: expected {name} of floats, found {part.dtype}")
        found[:, n, :size] = _as_float32(name, part, rounded)
    return found


def _as_float32(name: str, values: NDArray[Any], rounded: dict[str, str]) -> NDArray[np.float32]:
    """Convert to float32; if that changes values, add a note to ``rounded``."""
    found, note = as_float32(name, values)
    if note:
        rounded[name] = note
    return found


def _rewards(n: int, raw: Raw, where: str, rounded: dict[str, str]) -> NDArray[np.float32]:
    """Return every agent's rewards [T, N]."""
    team = np.asarray(raw["rewards"])
    each = team if raw.get(EACH) is None else np.asarray(raw[EACH])
    if {each.dtype.kind, team.dtype.kind} - set("fiu"):
        raise refused(f"{where}: expected numbers as rewards, found {each.dtype}")
    if each.shape == (len(team) + 1, n):
        each = each[1:]
    elif each.shape == (len(team),):
        each = np.repeat(each[:, None], n, axis=1)
    if len(team) < 1 or each.shape != (len(team), n):
        raise refused(f"{where}: expected rewards of {n} agents at every step, found shape {each.shape}")
    return _as_float32("rewards", each, rounded)


def _own(metadata: dict[str, Any]) -> dict[str, Any] | None:
    """Return the checked entry of this project's writer in ``metadata.json``; None for other writers."""
    own = metadata.get(minari_metadata.OWN)
    if own is None:
        return None
    kinds: dict[str, Any] = dict.fromkeys(("sources", "further", "parents"), list)
    kinds |= {"hash": str, "env": str, "quality": str | None}
    own = own if isinstance(own, dict) else {}
    wrong = [key for key, kind in kinds.items() if key not in own or not isinstance(own[key], kind)]
    finding = f"expected {wrong[0]!r}, found none" if wrong else schema.spec(own.get("spec"))
    finding = finding or _odd(own)
    if finding:
        raise refused(f"metadata.json, {minari_metadata.OWN}: {finding}")
    return own


def _odd(own: dict[str, Any]) -> str | None:
    """Return what is invalid inside the lists of an ``_own``, or None; they will be part of a manifest."""
    names = [*own["further"], *own["sources"]]
    if not all(isinstance(name, str) and name.isascii() for name in names):
        return f"expected names, found {names}"
    if not all(name.isidentifier() for name in own["further"]) or not own["env"]:
        return f"expected names of arrays and of an environment, found {own['further']} and {own['env']!r}"
    if not all(isinstance(parent, dict) for parent in own["parents"]):
        return "expected parents as objects, found others"
    try:
        json.dumps(own, allow_nan=False)
    except ValueError:
        return "expected finite numbers, found others"
    return None


def _ours(
    own: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
    notes: list[str],
    origin: dict[str, Any],
    altered: str,
) -> Imported:
    """Import a dataset of this project, after checking that it was not changed since it was written."""
    spec, claimed, parents = EnvSpec.from_json(own["spec"]), own["hash"], own["parents"]
    arrays = checked(spec, arrays)
    found = _hash(spec, arrays)
    if found != claimed:
        if altered == "refuse":
            raise refused(
                f"expected the content hash {claimed} that metadata.json records, found {found}: it was "
                "changed since; --option altered=accept takes it as it is"
            )
        notes.append(f"changed since it was written, when its content hash was {claimed}")
        parents = []
    origin |= {"recipe": own.get("recipe")}
    return Imported(spec, arrays, tuple(notes), origin, own["env"], own["quality"], own["sources"], parents)


def _hash(spec: EnvSpec, arrays: dict[str, NDArray[Any]]) -> str:
    """Return the content hash that these arrays will have in the store."""
    team, agents = stats.episode_returns(spec, arrays["rewards"], arrays["offsets"][:-1])
    whole = arrays | {"returns": team, "agent_returns": agents}
    layouts = laid_out(spec, arrays)
    return content_hash(
        spec, array_entries(layouts, {name: leaves(array, whole[name]) for name, array in layouts.items()})
    )


def _spec(metadata: dict[str, Any], shape: Shape, arrays: dict[str, NDArray[Any]]) -> EnvSpec:
    """Return the spec of a dataset from elsewhere: all that is known about its environment."""
    try:
        environment = json.loads(metadata.get("env_spec") or "{}")
        declared = environment.get("max_episode_steps")
        name = str(environment.get("id") or metadata.get("dataset_id") or "unknown")
    except (ValueError, TypeError, AttributeError) as error:
        raise refused(f"expected env_spec as Gymnasium's JSON, found {error}") from error
    longest = int(np.diff(arrays["offsets"]).max())
    rewards = arrays["rewards"]
    return EnvSpec(
        env_id=name,
        agent_names=shape.agents,
        obs_dims=shape.obs_dims,
        act_dim=shape.act_dim,
        act_low=shape.act_low,
        act_high=shape.act_high,
        horizon=max(longest, declared) if isinstance(declared, int) else longest,
        reward="shared" if (rewards == rewards[:, :1]).all() else "individual",
        facts={"imported": "minari", "env_spec": metadata.get("env_spec")},
    )


def _spec_of(env: str, shape: Shape) -> EnvSpec:
    """Return the spec of the environment ``env``. Raises UserError unless the sizes agree with it."""
    spec = described.from_env(env).spec
    expected, found = (spec.obs_dims, spec.act_dim), (shape.obs_dims, shape.act_dim)
    if expected != found:
        raise refused(f"expected observations and actions of {env}, {expected}, found {found}")
    return spec
