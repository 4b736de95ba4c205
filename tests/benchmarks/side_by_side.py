"""Steps per second of this project's environments and of others', one after another in one run.

    python tests/benchmarks/side_by_side.py [OTHER_PYTHON]

Every part runs in a process of its own: in this interpreter or, where that lacks the library, in OTHER_PYTHON
(JaxMARL and VMAS are no dependencies; VMAS is under the GPL); what neither can import is left out. A step is
one step of one environment with all its agents, resets included; actions are given, CPU only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

import numpy as np

SECONDS = 2.0
ROWS = 4096
CHEETAHS = 64
TAG = {"num_good": 1, "num_adversaries": 3, "num_obstacles": 2, "max_cycles": 25, "continuous_actions": True}


def rate(call: Callable[[], object], steps_per_call: int = 1) -> float:
    """Best of three spells, because other programs may be running."""
    call()
    best = 0.0
    for _ in range(3):
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            call()
            calls += 1
        best = max(best, calls * steps_per_call / (time.perf_counter() - start))
    return best


def particles(name: str, threads: int = 1, prey_acts: bool = False) -> float:
    """Our engine; all rows step together. Its kernels release the interpreter, so threads share them out."""
    from dom2data import envs
    from dom2data.envs.particle import ParticleEnv

    share, rng = ROWS // threads, np.random.default_rng(0)
    make = envs.make if prey_acts else envs.unguarded
    made = [make(name, num_envs=share, seed=i) for i in range(threads)]
    n_agents, n_all = made[0].spec.n_agents, len(made[0].scenario.sizes)
    actions = rng.uniform(-1, 1, (share, n_all, 2)).astype(np.float32)
    prey_actions = None if prey_acts else actions[:, n_agents:]

    def episode(env: ParticleEnv) -> None:
        env.reset()
        for _ in range(env.spec.horizon):
            env.step(actions[:, :n_agents], prey_actions)

    with ThreadPoolExecutor(threads) as pool:
        return rate(lambda: list(pool.map(episode, made)), ROWS * made[0].spec.horizon)


def halfcheetah(threads: int = 1) -> float:
    """Our batch of HalfCheetahs: 50 steps from a reset."""
    from dom2data.envs.halfcheetah import HalfCheetahEnv

    env = HalfCheetahEnv(CHEETAHS, threads=threads)
    actions = np.random.default_rng(0).uniform(-1, 1, (50, CHEETAHS, 2, 3)).astype(np.float32)

    def run() -> None:
        env.reset(0)
        for joint in actions:
            env.step(joint)

    return rate(run, 50 * CHEETAHS)


def bare_rollout(threads: int = 1) -> float:
    """The same with ``mujoco.rollout`` and nothing around it: no observation, no reward, no warm start."""
    import mujoco
    from mujoco.rollout import Rollout

    from dom2data.envs.halfcheetah import FRAME_SKIP, HalfCheetahEnv, standard_model

    model, pool = standard_model(), Rollout(nthread=threads if threads > 1 else 0)
    datas, models = [mujoco.MjData(model) for _ in range(threads)], [model] * CHEETAHS
    start = np.concatenate((np.zeros((CHEETAHS, 1)), *HalfCheetahEnv(CHEETAHS, 0).state), axis=1)
    states, sensors = np.empty((CHEETAHS, FRAME_SKIP, start.shape[1])), np.empty((CHEETAHS, FRAME_SKIP, 0))
    actions = np.random.default_rng(0).uniform(-1, 1, (50, CHEETAHS, 1, 6))

    def run() -> None:
        state = start
        for joint in actions:
            controls = np.repeat(joint, FRAME_SKIP, axis=1)
            pool.rollout(models, datas, state, controls, skip_checks=True, nstep=FRAME_SKIP, state=states,
                         sensordata=sensors)  # fmt: skip
            state = states[:, -1].copy()

    return rate(run, 50 * CHEETAHS)


def gymnasium_halfcheetah() -> float:
    """One HalfCheetah-v5, one agent, without wrappers."""
    import gymnasium

    env = gymnasium.make("HalfCheetah-v5").unwrapped
    env.reset(seed=0)
    action = env.action_space.sample()
    return rate(lambda: env.step(action))


def mamujoco() -> float:
    """The published two-agent wrapper, one environment."""
    from gymnasium_robotics import mamujoco_v1

    env = mamujoco_v1.parallel_env("HalfCheetah", "2x3")
    env.reset(seed=0)
    return in_dictionaries(env)


def mpe2_parallel(name: str) -> float:
    """mpe2 as its documentation uses it, one environment."""
    options = TAG if name == "simple_tag" else {"max_cycles": 25, "continuous_actions": True}
    env = import_module(f"mpe2.{name}_v3").parallel_env(**options)
    env.reset(seed=0)
    return in_dictionaries(env)


def mpe2_agent_by_agent() -> float:
    """Without the wrappers of ``parallel_env``, observations read by hand: mpe2's quickest way."""
    from mpe2 import simple_tag_v3

    env = simple_tag_v3.raw_env(**TAG)
    env.reset(seed=0)
    actions = {agent: env.action_space(agent).sample() for agent in env.agents}

    def step() -> None:
        if any(env.truncations.values()):
            env.reset()
        for action in actions.values():
            env.step(action)
        for agent in actions:
            env.observe(agent)

    return rate(step)


def in_dictionaries(env: object) -> float:
    """A PettingZoo environment with one joint action over and over."""
    actions = {agent: env.action_space(agent).sample() for agent in env.agents}

    def step() -> None:
        if not env.agents:
            env.reset()
        env.step(actions)

    return rate(step)


def jaxmarl(name: str) -> float:
    """Compiled episodes of ROWS environments, reset and all."""
    import jax
    from jaxmarl import make

    env = make(name)
    keys = jax.random.split(jax.random.key(0), ROWS)

    def episode(key: jax.Array) -> jax.Array:
        _, state = env.reset(key)
        actions = {agent: env.action_space(agent).sample(key) for agent in env.agents}

        def step(state: object, _: None) -> tuple[object, jax.Array]:
            obs, state, rewards, _, _ = env.step_env(key, state, actions)
            return state, sum(r.sum() for r in rewards.values()) + sum(o.sum() for o in obs.values())

        return jax.lax.scan(step, state, None, 25)[1]

    run = jax.jit(jax.vmap(episode))
    return rate(lambda: run(keys).block_until_ready(), ROWS * 25)


def vmas(name: str) -> float:
    """Episodes of ROWS environments as PyTorch tensors."""
    import torch
    from vmas import make_env

    torch.set_num_threads(os.cpu_count() or 1)
    env = make_env(name, num_envs=ROWS, device="cpu", seed=0)
    env.reset()
    actions = [torch.rand(ROWS, env.get_agent_action_size(agent)) * 2 - 1 for agent in env.agents]

    def episode() -> None:
        env.reset()
        for _ in range(25):
            env.step(actions)

    return rate(episode, ROWS * 25)


Part = tuple[str, str, Callable[[], float]]
PARTS: list[Part] = [
    ("mpe2 simple_tag, 1 environment", "mpe2", lambda: mpe2_parallel("simple_tag")),
    ("… its quickest way, agent by agent", "mpe2", mpe2_agent_by_agent),
    ("mpe2 simple_spread, 1 environment", "mpe2", lambda: mpe2_parallel("simple_spread")),
    (f"VMAS simple_tag, {ROWS:,} environments", "vmas", lambda: vmas("simple_tag")),
    (f"JaxMARL simple_tag, {ROWS:,} environments", "jaxmarl", lambda: jaxmarl("MPE_simple_tag_v3")),
    (f"JaxMARL simple_spread, {ROWS:,} environments", "jaxmarl", lambda: jaxmarl("MPE_simple_spread_v3")),
    (f"dom2data tag, {ROWS:,} environments, 1 thread", "dom2data", lambda: particles("tag")),
    (f"dom2data tag, {ROWS:,} environments, 2 threads", "dom2data", lambda: particles("tag", 2)),
    (f"dom2data world, {ROWS:,} environments, 1 thread", "dom2data", lambda: particles("world")),
    (f"dom2data spread, {ROWS:,} environments, 1 thread", "dom2data", lambda: particles("spread")),
    (
        f"dom2data tag, {ROWS:,} environments, 1 thread, with prey",
        "dom2data",
        lambda: particles("tag", 1, True),
    ),
    ("gymnasium-robotics mamujoco_v1 HalfCheetah 2x3", "gymnasium_robotics", mamujoco),
    ("gymnasium HalfCheetah-v5, one agent", "gymnasium", gymnasium_halfcheetah),
    (f"bare mujoco.rollout, {CHEETAHS} HalfCheetahs, 1 thread", "dom2data", bare_rollout),
    (f"bare mujoco.rollout, {CHEETAHS} HalfCheetahs, 2 threads", "dom2data", lambda: bare_rollout(2)),
    (f"dom2data halfcheetah, {CHEETAHS} environments, 1 thread", "dom2data", halfcheetah),
    (f"dom2data halfcheetah, {CHEETAHS} environments, 2 threads", "dom2data", lambda: halfcheetah(2)),
]


def measured(index: int, interpreters: list[str]) -> float | None:
    """Steps per second of a part, in the first interpreter that has its library."""
    for python in interpreters:
        done = subprocess.run([python, __file__, "--part", str(index)], stdout=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return float(done.stdout.split()[-1])
    return None


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        _, library, run = PARTS[int(sys.argv[2])]
        if find_spec(library) is None:
            sys.exit(3)
        print(run())
        return
    interpreters = [sys.executable, *sys.argv[1:]]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n\n| | steps/s |\n|---|---:|")
    for index, (what, _, _) in enumerate(PARTS):
        found = measured(index, interpreters)
        if found is not None:
            print(f"| {what} | {found:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
