"""Updates per second of DOM2 against a loop over agents, matrix units, seeds; evaluation; memory.

Both sides of a ratio are measured in turn in one process, with the same number of threads. Timing decides no
test. ``naive.py`` does the same sums, which ``tests/test_naive.py`` checks.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import torch
from timing import best

from dom2 import algorithms, evaluate, fit, pace
from dom2data import envs, executors
from dom2data.envs import parallel
from dom2data.sampler import Thresholds

pytestmark = pytest.mark.benchmark

Record = Callable[[str, float, str], None]
CPU = torch.device("cpu")
quick = partial(best, times=6)
B, N = 256, 3
THREADS = executors.cores()


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def build(name: str = "dom2", preset: str = "compact", seeds: int = 1, env: str = "tag", **hyper: Any) -> Any:
    """(algorithm, sampler) on noise in the shape of an environment's data."""
    data = pace.noise(env, 2000)
    config = fit.configure(name, preset, env, "medium", hyper)
    return fit.assemble(name, config, data, Thresholds("none"), B, range(seeds), CPU)


def gflop(made: Any, sampler: Any) -> float:
    """Of one update: the multiplications and additions of its matrix products, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        made.update(sampler.sample())
    return counter.get_total_flops() / 1e9


def matrix_rate() -> float:
    """GFLOP/s of a large float32 product here."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    (spent,) = quick(lambda: a @ b)
    return 2 * 2048**3 / spent / 1e9


@pytest.mark.parametrize("preset", ["compact", "wide"])
@pytest.mark.parametrize("threads", sorted({1, THREADS}))
def test_update_against_a_loop_over_agents(record: Record, preset: str, threads: int) -> None:
    torch.set_num_threads(threads)
    made, sampler = build(preset=preset)
    spec = made.spec
    team = naive.Team(spec.obs_dim, spec.act_dim, N, made.config)
    ours, loop = quick(lambda: made.update(sampler.sample()), lambda: team.update(sampler.sample()))
    name = f"{preset}, {threads} thread{'s' * (threads > 1)}"
    record(f"DOM2 update, 3 agents, {name}: a loop over agents", 1e3 * loop, "ms")
    record("… stacked", 1e3 * ours, "ms")
    record("… times as fast", loop / ours, "×")
    work, rate = gflop(made, sampler), matrix_rate()
    record("… matrix products of it", work, "GFLOP")
    record("… of the machine's float32 matrix rate", 100 * work / ours / rate, "%")


def test_seeds_at_once(record: Record) -> None:
    for threads in sorted({1, THREADS}):
        torch.set_num_threads(threads)
        one, five = build(), build(seeds=5)
        alone, together = quick(*(lambda m=m, s=s: m.update(s.sample()) for m, s in (one, five)))
        record(f"DOM2 update, compact, {threads} threads: one seed", 1e3 * alone, "ms")
        record("… five seeds, for each", 1e3 * together / 5, "ms")
        record("… times as fast for each", 5 * alone / together, "×")


def test_one_step_against_the_chain(record: Record) -> None:
    chain, one = build(), build(q_action="one_step")
    slow, fast = quick(*(lambda m=m, s=s: m.update(s.sample()) for m, s in (chain, one)))
    record("DOM2 update, compact: Q of the chain's action", 1e3 * slow, "ms")
    record("… Q of the one-step prediction", 1e3 * fast, "ms")
    record("… times as fast", slow / fast, "×")


@pytest.mark.parametrize("threads", [1, THREADS])
def test_evaluation_against_one_environment(record: Record, threads: int) -> None:
    """A thousand episodes of tag with DOM2; the loop over PettingZoo's interface runs ten."""
    torch.set_num_threads(threads)
    policy, episodes = build()[0].policy(0), 1000
    generator = torch.Generator().manual_seed(0)

    def ours() -> None:
        env = envs.make("tag", num_envs=episodes)
        evaluate.rollout(env, policy, generator, np.random.SeedSequence(0))

    def loop() -> None:
        env = parallel.ParallelView("tag")
        for seed in range(10):
            seen, _ = env.reset(seed=seed)
            while env.agents:
                obs = torch.from_numpy(np.stack([seen[agent] for agent in env.agents]))
                actions = policy.act(obs.unsqueeze(0), generator)[0].numpy()
                seen, *_ = env.step(dict(zip(env.agents, actions, strict=True)))

    fast, slow = quick(ours, loop, times=3)
    record(f"1,000 episodes of tag with DOM2, one environment at a time, threads: {threads}", slow * 100, "s")
    record("… all at once", fast, "s")
    record("… times as fast", slow * 100 / fast, "×")


def test_updates_of_every_algorithm(record: Record) -> None:
    torch.set_num_threads(1)
    for name in algorithms.ALGORITHMS:
        made, sampler = build(name, seeds=5)
        (spent,) = quick(lambda m=made, s=sampler: m.update(s.sample()), times=3)  # type: ignore[misc]
        record(f"{name}, compact, five seeds, 1 thread", 1.0 / spent, "updates/s")


# Not ru_maxrss, which a process inherits from the one that started it.
_PEAK = """
import re, sys
from click.testing import CliRunner
from dom2_cli.learn import main
words = ["fit", "--dataset", "tag-medium", "--out", sys.argv[1], "--updates", "20", "--root", sys.argv[2]]
assert CliRunner().invoke(main, words).exit_code == 0
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


def test_memory_of_fit(record: Record, tmp_path: Path) -> None:
    """Peak resident memory of ``dom2 fit`` on a million transitions of three agents."""
    from dom2data import generate

    data = generate.generate(generate.plan("tag", "medium", root=tmp_path))
    arrays = sum(array.nbytes for array in data.arrays().values())
    call = [sys.executable, "-c", _PEAK, str(tmp_path / "run"), str(tmp_path)]
    printed = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    peak = int(printed.splitlines()[-1])
    record("arrays of 10^6 transitions of tag", arrays / 1e6, "MB")
    record("… peak memory of dom2 fit", peak / 1e6, "MB")
    record("… twice the arrays and 600 MB", (2 * arrays + 6e8) / 1e6, "MB")
