"""A million steps of tag's expert: the whole command, against mpe2 stepped by the same policy into Minari.

The other side is measured on fewer episodes and extrapolated. Timing decides no test.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from side_by_side import TAG

from dom2_policies import zoo
from dom2_policies.policy import load_actor

pytestmark = pytest.mark.benchmark

STEPS, EPISODES = 1_000_000, 200


class Joint(gymnasium.Env[Any, Any]):
    """mpe2's tag as one environment for Minari's collector; the prey acts by the shipped prey's network."""

    def __init__(self) -> None:
        from mpe2 import simple_tag_v3

        self.env = simple_tag_v3.parallel_env(**TAG)
        self.env.reset(seed=0)
        self.prey = load_actor(zoo.path("tag", "prey"))
        self.generator = torch.Generator().manual_seed(0)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3, 16), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (3, 2), np.float32)
        self.spec = gymnasium.envs.registration.EnvSpec("tag-v0", entry_point="dom2data:none")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seen, _ = self.env.reset(seed=seed)
        return self.joint(), {}

    def joint(self) -> Any:
        return np.stack([self.seen[f"adversary_{i}"] for i in range(3)])

    def step(self, actions: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        own = torch.from_numpy(self.seen["agent_0"])[None, None]
        moves = {f"adversary_{i}": action for i, action in enumerate(actions)}
        moves["agent_0"] = self.prey.act(own, self.generator, deterministic=True)[0, 0].numpy()
        # Five numbers in [0, 1]: nothing, and the two directions of each axis.
        five = {
            name: np.array([0, max(a[0], 0), max(-a[0], 0), max(a[1], 0), max(-a[1], 0)], np.float32)
            for name, a in moves.items()
        }
        (
            self.seen,
            rewards,
            *_,
        ) = self.env.step(five)
        return self.joint(), float(rewards["adversary_0"]), False, not self.env.agents, {}


def collect(episodes: int, dataset_id: str) -> int:
    """The expert's episodes by Minari's collector; how many steps they have."""
    import minari

    expert, generator = load_actor(zoo.path("tag", "expert")), torch.Generator().manual_seed(0)
    env, steps = minari.DataCollector(Joint()), 0
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            action = expert.act(torch.from_numpy(obs)[None], generator)[0].numpy()
            obs, _, _, ended, _ = env.step(action)
            steps += 1
    env.create_dataset(dataset_id)
    return steps


def test_generate_against_minaris_collector(
    record: Callable[[str, float, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minari")
    pytest.importorskip("jax", reason="Minari's collector needs minari[create]")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    torch.set_num_threads(1)
    collect(2, "tag/warm-v0")  # imports and first calls, of which a million steps would see nothing
    start = time.perf_counter()
    steps = collect(EPISODES, "tag/expert-v0")
    collector = (time.perf_counter() - start) / steps * STEPS
    command = [sys.executable, "-c", "from dom2_cli.data import main; main()", "generate", "--env", "tag"]
    start = time.perf_counter()
    subprocess.run([*command, "--quality", "expert"], check=True, capture_output=True)
    ours = time.perf_counter() - start
    record(f"10^6 steps of tag: mpe2 and Minari's collector, from {steps:,} steps", collector, "s")
    record("… dom2data generate --env tag --quality expert, all of it", ours, "s")
    record("… times as fast", collector / ours, "×")
