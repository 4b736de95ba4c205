"""Returns of what was learned: every seed acts in its own episodes, the same ones at each evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from dom2 import checkpoint, seeding
from dom2.algorithms import Algorithm
from dom2.run import Run
from dom2_policies.policy import Policy
from dom2data import envs, scores
from dom2data.errors import CHECK_FAILED, UserError
from dom2data.spec import VectorEnv

Returns = NDArray[np.float64]


def returns(
    algorithm: Algorithm,
    n_seeds: int,
    env_name: str,
    episodes: int,
    seed: int = 0,
    candidates: int = 1,
    purpose: int = seeding.EVALUATION,
) -> Returns:
    """Team returns [S, E], undiscounted: E episodes of each seed's policy, the same at each call.

    Nothing is drawn from training's generators.
    """
    env = envs.make(env_name, num_envs=episodes)
    device = next(iter(algorithm.weights().values())).device
    rows = []
    for index in range(n_seeds):
        start, noise = np.random.SeedSequence(seed, spawn_key=(purpose, index)).spawn(2)
        policy = algorithm.policy(index, candidates)
        rows.append(rollout(env, policy, seeding.generator(noise, device), start))
    return np.stack(rows)


def rollout(
    env: VectorEnv, policy: Policy, generator: torch.Generator, seed: np.random.SeedSequence
) -> Returns:
    """Team returns [E], one episode a row."""
    obs = env.reset(seed)
    total = np.zeros(obs.shape[:2])
    running = np.ones(env.num_envs, bool)
    for _ in range(env.spec.horizon):
        actions = policy.act(torch.from_numpy(obs).to(generator.device), generator)
        step = env.step(actions.cpu().numpy())
        total[running] += step.rewards[running]
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
    return env.spec.team(total)


def summary(values: Returns, seed: int = 0) -> dict[str, Any]:
    """Mean, standard deviation, interquartile mean and its 95 % interval of returns [S, E].

    The interval is the percentile bootstrap, resampling episodes within each seed (stratified).
    """
    if values.size < 2:
        only = float(values.mean())
        return {"mean": only, "std": 0.0, "iqm": only, "ci": [only, only]}

    def iqm(*samples: Returns, axis: int = -1) -> Any:
        return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    interval = stats.bootstrap(
        tuple(values),
        iqm,
        paired=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "iqm": float(iqm(values.reshape(-1))),
        "ci": [float(interval.low), float(interval.high)],
    }


def report(run: Run, values: Returns, candidates: int, seed: int) -> dict[str, Any]:
    """The document ``evaluation.json``: raw and normalised summaries of returns [S, E]."""
    data = run.document["dataset"]
    result: dict[str, Any] = {"return": summary(values, seed)}
    for key, reference in (("normalized", "published"), ("normalized_own", "own")):
        try:
            result[key] = summary(scores.normalize(data["env"], values, reference), seed)  # type: ignore[arg-type]
        except UserError:  # an environment without these references has no score
            result[key] = None
    return result | {
        "episodes": values.shape[1],
        "seeds": len(values),
        "env": data["env"],
        "shift": "none",
        "updates": checkpoint.updates(run.folder),
        "candidates": candidates,
        "dataset": {"id": data["id"], "hash": data["hash"], "mean": data["return"]["mean"]},
        "per_seed": [{"seed": s, "mean": float(row.mean()), "std": float(row.std()), "returns": row.tolist()}
                     for s, row in zip(run.seeds, values, strict=True)],
    }  # fmt: skip


def trained(run: Run) -> Algorithm:
    """A run's algorithm with its last checkpoint's weights. Raises UserError when there is none."""
    device = torch.device("cpu")
    algorithm = run.build(device, seeding.generators(run.seeds, seeding.LEARNING, device))
    algorithm.load_weights(checkpoint.load_weights(run.folder, device))
    return algorithm


def evaluate(
    run: Run,
    episodes: int = 100,
    seed: int = 0,
    candidates: int = 1,
    shift: str = "none",
    force: bool = False,
) -> dict[str, Any]:
    """The document ``evaluation.json`` for a run's last checkpoint.

    Raises UserError for a shift that is not known, or when the environment is no longer the one that the
    data came from (``force`` evaluates nevertheless).
    """
    if shift != "none":
        raise UserError(f"expected shift none, found {shift!r}; shifted environments are not there yet")
    env_name = run.document["dataset"]["env"]
    now = envs.make(env_name, num_envs=1).spec.fingerprint
    if now != run.spec.fingerprint and not force:
        raise UserError(
            f"expected the environment of the data, fingerprint {run.spec.fingerprint}, found {now}; "
            "returns would not be comparable (--force evaluates nevertheless)",
            CHECK_FAILED,
        )
    algorithm = trained(run)
    return report(
        run, returns(algorithm, run.settings.seeds, env_name, episodes, seed, candidates), candidates, seed
    )
