"""Minari datasets into this project's words: ours give the same content hash, others what they can.

Accepted are observations and actions as Dict of one float Box for each agent, as one Box [N, O] and [N, A],
or as one vector (a single agent). Rewards of the agents are taken from ``infos/rewards`` ([T+1, N], row 0 of
the reset; or [T, N]), else from ``rewards`` [T, N] or [T] (everybody's).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dom2data import ids
from dom2data.convert.ingest import Imported, refused
from dom2data.convert.minari_file import episodes as hdf5_episodes
from dom2data.errors import UserError
from dom2data.recipes import file_hash
from dom2data.spec import EnvSpec
from dom2data.store import minari as minari_metadata
from dom2data.store.layout import layout
from dom2data.store.manifest import array_entries, content_hash, leaves

Raw = dict[str, Any]
"""One episode as Minari gives it: observations, actions, rewards, terminations, truncations, infos, and
``attributes``."""


class Shape(NamedTuple):
    """What the spaces say: agents (``key`` None where they are stacked in one array) and sizes."""

    agents: tuple[str, ...]
    keyed: bool
    obs_dims: tuple[int, ...]
    act_dim: int
    act_low: float
    act_high: float


def read(path: Path, *, root: Path | None = None, altered: str = "refuse") -> Imported:
    """A Minari dataset, given by its folder or, where there is none, by its id.

    Raises UserError: code 2 when there is none, 3 when it has another shape than those above, or it was
    written by this project and changed since (unless ``altered`` is ``accept``).
    """
    if altered not in ("refuse", "accept"):
        raise UserError(f"expected altered=refuse or altered=accept, found altered={altered}")
    data = _data(Path(path), root)
    metadata = _metadata(data)
    shape = _shape(metadata)
    if metadata["data_format"] == "hdf5":
        episodes = hdf5_episodes(data, metadata["total_episodes"])
    else:
        episodes = _through_minari(data)
    arrays, reward, notes = _arrays(shape, episodes)
    own = metadata.get(minari_metadata.OWN)
    payload = sorted(file for file in data.iterdir() if file.is_file())
    origin = {
        "format": "minari",
        "dataset_id": str(metadata.get("dataset_id")),
        "files": {file.name: file_hash(file) for file in payload},
        "options": {} if altered == "refuse" else {"altered": altered},
    }
    if own is not None:
        return _ours(own, arrays, notes, origin, altered)
    spec = _spec(metadata, shape, arrays, reward)
    del arrays["source"]
    return Imported(spec, arrays, tuple(notes), origin, env=spec.env_id)


def _data(path: Path, root: Path | None) -> Path:
    for folder in (path / "data", path, ids.root(root) / path / "data"):
        if (folder / minari_metadata.FILE).is_file():
            return folder
    raise UserError(f"expected a Minari dataset, found none at {path} or below {ids.root(root)}; "
                    "see `minari list local`")  # fmt: skip


def _metadata(data: Path) -> dict[str, Any]:
    try:
        found = json.loads((data / minari_metadata.FILE).read_text())
    except (OSError, ValueError) as error:
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
    """(size for each of n agents, lowest, highest bound); bounds that differ become infinite."""
    if space["type"] != "Box" or not space["dtype"].startswith("float"):
        raise refused(f"expected a Box of floats, found {space['type']} of {space.get('dtype', 'no dtype')}")
    size = int(np.prod(space["shape"]))
    if size < 1 or size % n or (n > 1 and space["shape"][0] != n):
        raise refused(f"expected a Box with a row for each of {n} agents, found shape {space['shape']}")
    low, high = (np.unique(np.asarray(space[key], np.float32)) for key in ("low", "high"))
    return (
        size // n,
        float(low[0]) if len(low) == 1 else -np.inf,
        float(high[0]) if len(high) == 1 else np.inf,
    )


def _through_minari(data: Path) -> Iterator[Raw]:
    """Episodes of Minari's other formats (Arrow, Parquet), read by Minari itself."""
    import minari

    try:
        dataset = minari.MinariDataset(data)
        for episode in dataset:
            yield vars(episode) | {"attributes": {}}
    except (ImportError, KeyError, ValueError, AssertionError, OSError) as error:
        raise refused(f"{data}: expected a dataset that Minari opens, found: {error}") from error


def _arrays(shape: Shape, episodes: Iterator[Raw]) -> tuple[dict[str, NDArray[Any]], str, list[str]]:
    """The store's arrays, the kind of reward, and what was changed."""
    parts: dict[str, list[Any]] = {
        name: [] for name in ("observations", "actions", "rewards", "terminated", "truncated")
    }
    extra: dict[str, list[Any]] = {"source": [], "parent_episode": []}
    shared, cut = True, 0
    for i, raw in enumerate(episodes):
        where = f"episode {i}"
        steps = len(raw["rewards"])
        parts["observations"].append(
            _rows(shape, raw["observations"], steps + 1, shape.obs_dims, f"{where}: observations")
        )
        parts["actions"].append(
            _rows(shape, raw["actions"], steps, (shape.act_dim,) * len(shape.agents), f"{where}: actions")
        )
        parts["rewards"].append(rewards := _rewards(len(shape.agents), raw, where))
        shared = shared and bool((rewards == rewards[:, :1]).all())
        terminated, truncated = (np.asarray(raw[k], bool) for k in ("terminations", "truncations"))
        if (
            len(terminated) != steps
            or len(truncated) != steps
            or terminated[:-1].any()
            or truncated[:-1].any()
        ):
            raise refused(f"{where}: expected {steps} flags that are false but for the last, found others")
        cut += not (terminated[-1] or truncated[-1])
        parts["terminated"].append(terminated[-1])
        parts["truncated"].append(truncated[-1] or not terminated[-1])
        for name, values in extra.items():
            values.append(raw["attributes"].get(name))
    if not parts["rewards"]:
        raise refused("expected at least one episode, found none")
    arrays = {name: np.concatenate(parts[name]) for name in ("observations", "actions", "rewards")}
    arrays |= {name: np.array(parts[name], bool) for name in ("terminated", "truncated")}
    arrays["offsets"] = np.concatenate(([0], np.cumsum([len(part) for part in parts["rewards"]]))).astype(
        np.int64
    )
    for name, values in extra.items():
        if all(np.ndim(value) == 0 and isinstance(value, int | np.integer) for value in values):
            arrays[name] = np.array(values, np.int64)
    arrays.setdefault("source", np.zeros(len(arrays["terminated"]), np.int64))
    notes = [f"{cut} episodes ended without a flag: counted as truncated"] if cut else []
    return arrays, "shared" if shared else "individual", notes


def _rows(shape: Shape, values: Any, rows: int, sizes: tuple[int, ...], where: str) -> NDArray[np.float32]:
    """[rows, N, widest] of one episode, narrower agents padded with zeros."""
    found = np.zeros((rows, len(sizes), max(sizes)), np.float32)
    try:
        parts = [values[agent] for agent in shape.agents] if shape.keyed else None
        if parts is None:
            parts = list(np.moveaxis(np.reshape(values, (rows, len(sizes), sizes[0])), 1, 0))
        for n, (part, size) in enumerate(zip(parts, sizes, strict=True)):
            if part.dtype.kind != "f":
                raise refused(f"{where}: expected floats, found {part.dtype}")
            found[:, n, :size] = np.reshape(part, (rows, size))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise refused(f"{where}: expected {rows} rows of sizes {sizes}, found others ({error})") from error
    return found


def _rewards(n: int, raw: Raw, where: str) -> NDArray[np.float32]:
    """Every agent's rewards [T, N]."""
    team = np.asarray(raw["rewards"])
    each = np.asarray((raw["infos"] or {}).get("rewards", team))
    if each.dtype.kind not in "fiu" or team.dtype.kind not in "fiu":
        raise refused(f"{where}: expected numbers as rewards, found {each.dtype}")
    if each.shape == (len(team) + 1, n):
        each = each[1:]
    elif each.shape == (len(team),):
        each = np.repeat(each[:, None], n, axis=1)
    if len(team) < 1 or each.shape != (len(team), n):
        raise refused(f"{where}: expected rewards of {n} agents at every step, found shape {each.shape}")
    return each.astype(np.float32)


def _ours(
    own: Any, arrays: dict[str, NDArray[Any]], notes: list[str], origin: dict[str, Any], altered: str
) -> Imported:
    """A dataset of this project, if it still is what was written."""
    try:
        spec, claimed, names = EnvSpec.from_json(own["spec"]), own["hash"], list(own["arrays"])
        kept = {key: own[key] for key in ("env", "quality", "sources", "parents")}
        arrays = {name: array for name, array in arrays.items() if name != "parent_episode" or name in names}
        found = _hash(spec, arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refused(f"expected metadata.json as this project writes it, found {error!r}") from error
    if found != claimed:
        if altered == "refuse":
            raise refused(
                f"expected the content hash {claimed} that metadata.json records, found {found}: it was "
                "changed since; --option altered=accept takes it as it is"
            )
        notes.append(f"changed since it was written: its content hash was {claimed}")
        kept["parents"] = []
    return Imported(spec, arrays, tuple(notes), origin | {"recipe": own.get("recipe")}, **kept)


def _hash(spec: EnvSpec, arrays: dict[str, NDArray[Any]]) -> str:
    """The content hash that these arrays will have in the store."""
    from dom2data import stats

    team, agents = stats.episode_returns(spec, arrays["rewards"], arrays["offsets"][:-1])
    whole = arrays | {"returns": team, "agent_returns": agents}
    layouts = layout(spec, len(team), len(arrays["actions"]))
    if "parent_episode" in arrays:
        layouts["parent_episode"] = layouts["source"]
    return content_hash(
        spec, array_entries(layouts, {name: leaves(array, whole[name]) for name, array in layouts.items()})
    )


def _spec(metadata: dict[str, Any], shape: Shape, arrays: dict[str, NDArray[Any]], reward: Any) -> EnvSpec:
    """The spec of a dataset from elsewhere: all that is known of its environment."""
    try:
        environment = json.loads(metadata.get("env_spec") or "{}")
        declared = environment.get("max_episode_steps") or 0
        name = str(environment.get("id") or metadata.get("dataset_id") or "unknown")
    except (ValueError, AttributeError) as error:
        raise refused(f"expected env_spec as Gymnasium's JSON, found {error}") from error
    longest = int(np.diff(arrays["offsets"]).max())
    facts = {
        "imported_from": "minari",
        "env_spec": environment,
        "dataset_id": str(metadata.get("dataset_id")),
    }
    horizon = max(longest, declared if isinstance(declared, int) else 0)
    return EnvSpec(
        name,
        shape.agents,
        shape.obs_dims,
        shape.act_dim,
        shape.act_low,
        shape.act_high,
        horizon,
        reward,
        facts,
    )
