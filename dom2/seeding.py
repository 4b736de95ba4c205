"""One SeedSequence per seed, spawned per purpose, so that no purpose's draws depend on another's."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

LEARNING, BATCHES, EVALUATION = (
    0,
    1,
    2,
)  # weights and noise; minibatches; episodes and the policies' noise in them


def generator(sequence: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    """A torch generator seeded with 63 bits of a sequence."""
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


def generators(seeds: Iterable[int], purpose: int, device: torch.device) -> list[torch.Generator]:
    """One generator for each seed and this purpose."""
    return [generator(np.random.SeedSequence(seed, spawn_key=(purpose,)), device) for seed in seeds]
