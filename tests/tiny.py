"""Small things that the tests of the learning side share: a spec, minibatches, a dataset, a run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from small_datasets import generators

from dom2 import fit, run
from dom2.algorithms import Algorithm
from dom2.algorithms.dom2 import DOM2, Config
from dom2.members import Members
from dom2data import dataset, generate
from dom2data.spec import Batch, EnvSpec
from dom2data.windows import Windows

NAMES = ("left", "middle", "right")
SPEC = EnvSpec("toy", NAMES, (5, 5, 5), 2, -1.0, 1.0, 4, "individual", {"version": "toy-1"})
NETWORKS: dict[str, Any] = {"widths": (16, 8, 8), "embed_dim": 8, "critic_widths": (16, 16)}
ACTOR_CRITIC: dict[str, Any] = {"actor_widths": (16, 16), "critic_widths": (16, 16)}
# Settings of every algorithm that make it small.
SMALL: dict[str, dict[str, Any]] = {
    "dom2": NETWORKS,
    "bc": {"actor_widths": (16, 16)},
    "ma-td3+bc": ACTOR_CRITIC,
    "ma-cql": ACTOR_CRITIC,
    "omar": ACTOR_CRITIC,
    "cfcql": ACTOR_CRITIC,
    "ma-iql": ACTOR_CRITIC,
    "ma-icq": ACTOR_CRITIC,
    "ma-diffusion-ql": {"widths": (16, 16), "critic_widths": (16, 16)},
    "omiga": ACTOR_CRITIC | {"mixer_width": 8},
    "madiff": {"horizon": 4, "dim": 8, "n_steps": 4, "inverse_widths": (16,)},
    "ma-sfbc": NETWORKS
    | {"behaviour_updates": 2, "critic_updates": 2, "horizon": 3, "bank": 48, "n_actions": 3},
}
CPU = torch.device("cpu")


def dom2(seeds: int = 1, first: int = 0, spec: EnvSpec = SPEC, **settings: Any) -> DOM2:
    config = Config(**NETWORKS | settings)
    return DOM2(config, spec, Members(spec, seeds, CPU, generators(*range(first, first + seeds))))


def batch(members: int, size: int = 32, seed: int = 0, spec: EnvSpec = SPEC) -> Batch:
    """Random transitions; the first rows are the same however many members there are."""
    rows = []
    for m in range(members):
        g = torch.Generator().manual_seed(1000 * seed + m)
        obs = torch.randn(2, size, spec.obs_dim, generator=g)
        actions = torch.rand(size, spec.act_dim, generator=g) * 2 - 1
        rest = torch.randn(size, generator=g), (torch.rand(size, generator=g) < 0.1).float()
        rows.append((obs[0], actions, rest[0], obs[1], rest[1]))
    return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)))


def minibatch(algorithm: Algorithm, seeds: range, update: int = 0, size: int = 32) -> Any:
    """Random data of the kind that an algorithm asks for; a seed's is the same whatever else is drawn."""
    n = SPEC.n_agents
    if algorithm.batches != "windows":
        drawn = batch(n * seeds.stop, size, update)
        return Batch(**{name: value[n * seeds.start :] for name, value in vars(drawn).items()})
    drawn = [window(algorithm.config.horizon, size, 1000 * update + seed) for seed in seeds]
    return Windows(**{name: torch.stack([getattr(w, name) for w in drawn]) for name in vars(drawn[0])})


def window(horizon: int, size: int, seed: int) -> Windows:
    """Random windows of one seed, without the leading axis; the last step of some is past the end."""
    g, shape = torch.Generator().manual_seed(seed), (size, horizon, SPEC.n_agents)
    taken = torch.ones(size, horizon)
    taken[: size // 4, -1] = 0.0
    return Windows(
        obs=torch.randn(*shape, SPEC.obs_dim, generator=g),
        actions=torch.rand(*shape, SPEC.act_dim, generator=g) * 2 - 1,
        rewards=torch.randn(shape, generator=g),
        terminated=torch.zeros(size, horizon),
        taken=taken,
        returns=torch.randn(size, SPEC.n_agents, generator=g),
        before=torch.arange(size) % 5,
    )


@functools.cache
def tag_random() -> str:
    """The id of a small dataset of uniform actions in tag, made on first use in the tests' own root."""
    plan = generate.plan("tag", "random", steps=1250, seed=0, out="tiny-random-v0")
    return generate.generate(plan).id


def released(runs: Path) -> None:
    """Waits until nobody holds a run: the workers of a killed command live on until they notice."""
    for claim in runs.rglob(".*.claim"):
        with FileLock(claim, timeout=60):
            pass


def new_run(folder: Path, *, hyper: dict[str, Any] | None = None, **settings: Any) -> run.Run:
    """A run on ``tag_random`` that has not begun; four updates unless told otherwise."""
    defaults: dict[str, Any] = {"updates": 4, "batch_size": 16, "log_every": 2, "checkpoint_every": 2}
    data = dataset.open(tag_random())
    config = fit.configure("dom2", "compact", data.env, data.quality, NETWORKS | (hyper or {}))
    document = run.describe(run.Settings(**defaults | settings), config, data, ["fit"])
    return run.create(folder, document)
