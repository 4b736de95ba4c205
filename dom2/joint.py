"""Convert joint minibatches from the layout per agent to the layout per team, for centralised critics.

A ``joint`` Batch has the leading dimension M = S seeds x N agents; agents of a seed share their transitions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dom2data.spec import Batch, EnvSpec


def side_by_side(x: Tensor, n_seeds: int) -> Tensor:
    """Concatenate the agents' vectors: [M, B, D] -> [S, B, N D]."""
    return x.unflatten(0, (n_seeds, -1)).transpose(1, 2).flatten(2)


def team(batch: Batch, spec: EnvSpec) -> tuple[Tensor, Tensor]:
    """The team's rewards (the shared one, or the mean over agents) and ``terminated``, both [S, B]."""
    rewards = batch.rewards.unflatten(0, (-1, spec.n_agents))
    terminated = batch.terminated.unflatten(0, (-1, spec.n_agents))
    return rewards[:, 0] if spec.reward == "shared" else rewards.mean(dim=1), terminated[:, 0]


def counterfactual(actions: Tensor, replacements: Tensor) -> Tensor:
    """Joint actions in which one agent deviates: actions [S, N, B, A], replacements [S, N, K, B, A]
    -> [S, N K, B, N A]; index i K + k has the joint action with agent i's k-th replacement."""
    n = actions.shape[1]
    deviates = torch.eye(n, dtype=torch.bool, device=actions.device)[
        :, None, :, None, None
    ]  # [N, 1, N, 1, 1]
    joint = torch.where(deviates, replacements.unsqueeze(3), actions[:, None, None])
    return joint.transpose(3, 4).flatten(4).flatten(1, 2)
