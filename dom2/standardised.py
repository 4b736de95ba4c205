"""A wrapper that standardises observations by the data's moments around any algorithm.

The joint angles and speeds of halfcheetah differ in size by a factor of ten and more. TD3+BC (Fujimoto and Gu
2021) standardises them, and so does every algorithm here that does not scale them itself. The moments are
part of a run's document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dom2.algorithms import Learner
from dom2_policies.policy import Policy
from dom2data import envs
from dom2data.dataset import Dataset

EPS = 1e-3
"""added to standard deviations, as in TD3+BC"""
OWN = ("madiff",)
"""algorithms that scale observations themselves"""


def default(algorithm: str, env: str) -> Literal["on", "off"]:
    """Return the meaning of ``--standardise auto``."""
    return "on" if envs.task(env) == "halfcheetah" and algorithm not in OWN else "off"


def moments(dataset: Dataset) -> dict[str, list[list[float]]]:
    """Mean and standard deviation of each agent's observations over all rows, ``[N][O]``; read by chunks."""
    layout, count = dataset.layout("observations"), 0
    mean, squares = np.zeros(layout.shape[1:]), np.zeros(layout.shape[1:])
    for number in range(layout.n_chunks):  # merged as in Chan et al. 1983
        rows = dataset.chunk("observations", number).astype(np.float64)
        its_mean, total = rows.mean(axis=0), count + len(rows)
        squares += ((rows - its_mean) ** 2).sum(axis=0) + (its_mean - mean) ** 2 * count * len(rows) / total
        mean += (its_mean - mean) * len(rows) / total
        count = total
    return {"mean": mean.tolist(), "std": np.sqrt(squares / count).tolist()}


class Standard:
    """(obs - mean) / (std + ``EPS``), float32."""

    def __init__(self, moments: Mapping[str, list[list[float]]], device: torch.device):
        self.mean = torch.tensor(moments["mean"], device=device)
        self.scale = 1.0 / (torch.tensor(moments["std"], device=device) + EPS)

    def joint(self, obs: Tensor) -> Tensor:
        """obs [..., N, O]."""
        return (obs - self.mean) * self.scale

    def members(self, obs: Tensor) -> Tensor:
        """obs [S x N, B, O]."""
        return self.joint(obs.unflatten(0, (-1, len(self.mean))).movedim(1, -2)).movedim(-2, 1).flatten(0, 1)


class Standardised:
    """An algorithm that learns from standardised observations; its policies standardise their own, too."""

    def __init__(self, inner: Learner, moments: Mapping[str, list[list[float]]]):
        self.inner, self.config, self.members = inner, inner.config, inner.members
        self.standard = Standard(moments, inner.members.device)
        if hasattr(inner, "phase"):  # an algorithm without it is never recorded as a CUDA graph
            self.phase = inner.phase

    @property
    def batches(self) -> Literal["independent", "joint", "windows"]:
        return self.inner.batches

    def update(self, batch: Any) -> dict[str, Tensor]:
        if self.batches == "windows":
            return self.inner.update(replace(batch, obs=self.standard.joint(batch.obs)))
        seen, then = (self.standard.members(obs) for obs in (batch.obs, batch.next_obs))
        return self.inner.update(replace(batch, obs=seen, next_obs=then))

    def policy(self, seed: int, candidates: int = 1) -> Policy:
        return Standardising(self.inner.policy(seed, candidates), self.standard)


class Standardising:
    """A policy that acts on standardised observations."""

    def __init__(self, inner: Policy, standard: Standard):
        self.inner, self.standard = inner, standard

    def act(self, obs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        return self.inner.act(self.standard.joint(obs), generator, deterministic)
