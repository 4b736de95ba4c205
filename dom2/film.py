"""Pictures of trained agents' episodes, captioned with the step and the return so far."""

from __future__ import annotations

import numpy as np
import torch

from dom2 import evaluate
from dom2 import run as runs
from dom2.run import Run
from dom2data import envs, named
from dom2data.envs.render import Picture, draw
from dom2data.errors import UserError
from dom2data.look.play import captioned, shown


def frames(
    run: Run,
    agents: int,
    episodes: int = 1,
    seed: int = 0,
    shift: str = "none",
    stride: int | None = None,
    allow_mismatch: bool = False,
) -> tuple[list[Picture], list[float]]:
    """Pictures of ``episodes`` one after another, every ``stride`` steps, and the return of each episode.

    ``agents`` is the training seed of the agents; ``seed`` determines initial states and noise. Raises
    UserError for agents that the run does not have, for an environment without pictures, and like
    ``run.mismatch`` and ``evaluate.acted``; ValueError for a shift that the environment does not have.
    """
    if agents not in run.seeds:
        known = ", ".join(map(str, run.seeds))
        raise UserError(f"expected agents of a seed of the run ({known}), found {agents}")
    name = run.document["dataset"]["env"]
    runs.mismatch(run.spec, name, allow_mismatch)
    named.environment(name)
    env = envs.make(name, num_envs=episodes, shift=shift)
    index = run.seeds.index(agents)
    start, generator = evaluate.streams(seed, index, torch.device("cpu"))
    policy = evaluate.trained(run).policy(index)
    obs, earned = env.reset(start), np.zeros((episodes, env.spec.n_agents))
    times = set(shown(env.spec.horizon, stride).tolist())
    pictures: list[list[Picture]] = [[] for _ in range(episodes)]
    running = np.ones(episodes, bool)
    for time in range(env.spec.horizon + 1):
        if time in times:
            team = env.spec.team(earned)
            for row in np.flatnonzero(running):
                text = f"episode {row}   step {time}   return {team[row]:.1f}"
                pictures[row].append(captioned(_picture(env, int(row)), text))
        if time < env.spec.horizon and running.any():
            step = env.step(evaluate.acted(policy, obs, generator, env.spec))
            earned[running] += step.rewards[running]
            running &= ~step.terminated
            obs = step.obs
    return [picture for episode in pictures for picture in episode], env.spec.team(earned).tolist()


def _picture(env: object, row: int) -> Picture:
    try:
        return draw(env, row)
    except TypeError as error:
        raise UserError(str(error)) from error
