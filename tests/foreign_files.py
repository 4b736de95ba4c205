"""Files in other people's formats, written here from their documented layouts by code of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


@dataclass
class Play:
    """Steps of made-up episodes: obs, next_obs [S, N, O], actions [S, N, A], rewards [S, N], lengths [Ep]."""

    obs: NDArray[Any]
    next_obs: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    lengths: list[int]

    @property
    def ends(self) -> NDArray[np.bool_]:
        ends = np.zeros(len(self.obs), bool)
        ends[np.cumsum(self.lengths) - 1] = True
        return ends


def play(lengths: list[int], agents: int = 3, seed: int = 0, widths: tuple[int, int] = (5, 2)) -> Play:
    rng = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[Any]]] = {"obs": [], "next_obs": []}
    for length in lengths:
        whole = rng.normal(size=(length + 1, agents, widths[0])).astype(np.float32)
        parts["obs"].append(whole[:-1])
        parts["next_obs"].append(whole[1:])
    steps = sum(lengths)
    actions = rng.uniform(-1, 1, (steps, agents, widths[1])).astype(np.float32)
    rewards = rng.normal(size=(steps, agents)).astype(np.float32)
    return Play(np.concatenate(parts["obs"]), np.concatenate(parts["next_obs"]), actions, rewards, lengths)


def omar(folder: Path, data: Play, dones: NDArray[Any] | None = None, prey: bool = False) -> Path:
    """``seed_0_data`` with one npy file per field and agent; ``prey`` adds an agent that observes less."""
    place = folder / "seed_0_data"
    place.mkdir(parents=True)
    steps = len(data.obs)
    for i in range(data.obs.shape[1] + prey):
        j, width = min(i, data.obs.shape[1] - 1), data.obs.shape[2] - (i == data.obs.shape[1])
        np.save(place / f"obs_{i}.npy", data.obs[:, j, :width])
        np.save(place / f"next_obs_{i}.npy", data.next_obs[:, j, :width])
        np.save(place / f"acs_{i}.npy", data.actions[:, j])
        np.save(place / f"rews_{i}.npy", data.rewards[:, j].astype(np.float64))
        np.save(place / f"dones_{i}.npy", np.zeros(steps) if dones is None else dones)
    return folder


def madiff(folder: Path, data: Play) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "obs.npy", data.obs)
    np.save(folder / "actions.npy", data.actions)
    np.save(folder / "rewards.npy", data.rewards)
    np.save(folder / "path_lengths.npy", np.array(data.lengths))
    return folder


def omiga(path: Path, data: Play) -> Path:
    with h5py.File(path, "w") as file:
        file["s"] = data.obs
        file["o"] = data.obs
        file["a"] = data.actions
        file["r"] = data.rewards[:, :1]
        file["d"] = np.repeat(data.ends[:, None], data.obs.shape[1], axis=1)
    return path


def d4rl(path: Path, data: Play, following: bool = True, timeouts: bool = True, terminal: int = 0) -> Path:
    """One agent's file; the first ``terminal`` episodes end by themselves."""
    terminals = data.ends & (np.cumsum(data.ends) <= terminal)
    with h5py.File(path, "w") as file:
        file["observations"] = data.obs[:, 0]
        file["actions"] = data.actions[:, 0]
        file["rewards"] = data.rewards[:, 0]
        file["terminals"] = terminals
        if timeouts:
            file["timeouts"] = data.ends & ~terminals
        if following:
            file["next_observations"] = data.next_obs[:, 0]
    return path


def vault(folder: Path, streams: list[Play]) -> Path:
    """``<uid>`` with one zarr array per leaf in an OCDBT store; the last agent's last observation is -inf."""
    import tensorstore as ts

    folder.mkdir(parents=True)
    n, length = streams[0].obs.shape[1], len(streams[0].obs)
    obs = np.stack([stream.obs for stream in streams])
    obs[:, :, -1, -1] = -np.inf
    ends = np.stack([np.repeat(stream.ends[:, None], n, axis=1) for stream in streams])
    leaves = {
        "observations": obs,
        "actions": np.stack([stream.actions for stream in streams]),
        "rewards": np.stack([stream.rewards for stream in streams]),
        "terminals": np.zeros_like(ends, np.float32),
        "truncations": ends.astype(np.float32),
    }
    index = {"vault_index": np.array([length], np.int32)}
    for name, array in {**{f"{name}.": leaf for name, leaf in leaves.items()}, **index}.items():
        shape = array.shape if name == "vault_index" else (len(streams), 10**13, *array.shape[2:])
        kvstore = {"driver": "ocdbt", "base": f"file://{folder}", "path": name}
        spec = {"driver": "zarr", "kvstore": kvstore, "metadata": {"compressor": {"id": "gzip", "level": 5}}}
        store = ts.open(spec, dtype=array.dtype.name, shape=shape, create=True).result()
        (store if name == "vault_index" else store[:, :length]).write(array).result()
    shapes = {name: str(leaf.shape) for name, leaf in leaves.items()}
    dtypes = {name: leaf.dtype.name for name, leaf in leaves.items()}
    metadata = {"version": 1.2, "structure_shape": shapes, "structure_dtype": dtypes}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def torchrl(folder: Path, data: Play) -> Path:
    """As ``TensorDict(...).memmap(folder)`` leaves it."""
    ends, names = data.ends[:, None], {"float32": "torch.float32", "bool": "torch.bool"}
    flags = {"done": ends, "terminated": np.zeros_like(ends), "truncated": ends}

    def put(place: Path, entries: dict[str, Any]) -> None:
        place.mkdir(parents=True)
        meta: dict[str, Any] = {}
        for name, value in entries.items():
            if isinstance(value, dict):
                put(place / name, value)
                meta[name] = {"type": "TensorDict"}
            else:
                (place / f"{name}.memmap").write_bytes(value.tobytes())
                dtype = names[value.dtype.name]
                meta[name] = {"device": "cpu", "shape": list(value.shape), "dtype": dtype, "is_nested": False}
        meta |= {"shape": [len(ends)], "device": "cpu", "_type": "<class 'tensordict._td.TensorDict'>"}
        (place / "meta.json").write_text(json.dumps(meta))

    following = {"observation": data.next_obs, "reward": data.rewards[..., None]}
    first = {"observation": data.obs, "action": data.actions}
    put(folder, {"agents": first, "next": {"agents": following, **flags}})
    return folder
