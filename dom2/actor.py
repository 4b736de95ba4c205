"""Deterministic policies: tanh networks that train as one stack and act one seed at a time."""

from __future__ import annotations

from collections.abc import Sequence

from dom2.members import Members
from dom2_policies.policy import Actor
from dom2data.errors import UserError
from dom2data.spec import EnvSpec


def tanh_actors(members: Members, spec: EnvSpec, widths: Sequence[int]) -> Actor:
    """A network for each of M = seeds x N members: obs [M, B, O] -> actions [M, B, A] in [-1, 1]."""
    sizes = (spec.obs_dim, *widths, spec.act_dim)
    return Actor(sizes, members.n_seeds * spec.n_agents, members.generators)


def policy(members: Members, actor: Actor, seed: int, candidates: int) -> Actor:
    """A snapshot of one seed's N agents. Raises UserError (usage) for more than one candidate."""
    if candidates != 1:
        raise UserError(
            f"expected 1 candidate, since this policy has one action for an observation, found {candidates}; "
            "leave --candidates out"
        )
    return members.snapshot(actor, seed)
