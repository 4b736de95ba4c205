"""The loop that speed is measured against does the same sums: it is no straw man, and no other algorithm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny import SPEC, batch, dom2

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from naive import Agent, Draws, load

torch.set_num_threads(1)


def draws(ours, member: int, actions: torch.Tensor) -> list[Draws]:  # type: ignore[no-untyped-def]
    """What the next updates of a stack will draw, taken from copies of its generators."""
    from dom2.members import Members

    copies = [torch.Generator() for _ in ours.members.generators]
    for copy, generator in zip(copies, ours.members.generators, strict=True):
        copy.set_state(generator.get_state())
    shadow = Members(ours.spec, ours.members.n_seeds, ours.members.device, copies)
    found = []
    for _ in range(3):
        target, uniform = shadow.normal(actions), shadow.uniform(actions, ours.config.n_uniform)
        first = 0 if ours.config.loss_includes_tau0 else 1
        index = shadow.integers(first, ours.config.n_steps + 1, like=actions[..., 0])
        eps, chain = shadow.normal(actions), shadow.normal(actions)
        found.append(
            Draws(target[member], uniform[member].transpose(0, 1), index[member], eps[member], chain[member])
        )
    return found


@pytest.mark.parametrize("member", [0, 4])
def test_three_updates_agree(member: int) -> None:
    ours = dom2(seeds=2, eta=1.5, zeta=0.7)
    agent = Agent(SPEC.obs_dim, SPEC.act_dim, ours.config)
    load(agent, ours, member)
    data = [batch(6, seed=s) for s in range(3)]
    noise = draws(ours, member, data[0].actions)
    for minibatch, drawn in zip(data, noise, strict=True):
        metrics = ours.update(minibatch)
        fields = (
            getattr(minibatch, n)[member] for n in ("obs", "actions", "rewards", "next_obs", "terminated")
        )
        found = agent.update(*fields, drawn)
        for name, theirs in (
            ("critic/td", "td"),
            ("critic/gap", "gap"),
            ("actor/bc", "bc"),
            ("actor/q", "q"),
            ("actor/eta_tilde", "eta"),
        ):
            assert metrics[name][member].item() == pytest.approx(found[theirs], rel=2e-4, abs=1e-5), name
