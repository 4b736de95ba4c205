"""CFCQL: one agent at a time leaves the data, in the penalty and in the improvement."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from test_algorithms import make
from test_deterministic import follow, mlp, networks, pi, step
from tiny import CPU, SPEC, generators, minibatch

from dom2 import algorithms, joint
from dom2.algorithms import Algorithm
from dom2data.spec import Batch

N = 3


def joint_batch(algorithm: Algorithm, update: int = 0) -> Batch:
    return minibatch(algorithm, range(1), update)


def test_counterfactual_replaces_one_agent_at_a_time() -> None:
    actions, others = torch.randn(2, N, 5, 2), torch.randn(2, N, 4, 5, 2)
    found = joint.counterfactual(actions, others).view(2, N, 4, 5, N, 2)
    for i in range(N):
        for j in range(N):
            for k in range(4):
                expected = others[:, i, k] if i == j else actions[:, j]
                assert torch.equal(found[:, i, k, :, j], expected)


def test_team_reward_is_the_shared_one_or_the_mean() -> None:
    batch = joint_batch(make("cfcql"))
    rewards, terminated = joint.team(batch, SPEC)
    torch.testing.assert_close(rewards, batch.rewards.mean(dim=0, keepdim=True))
    assert torch.equal(terminated, batch.terminated[:1])
    shared, _ = joint.team(batch, dataclasses.replace(SPEC, reward="shared"))
    assert torch.equal(shared, batch.rewards[:1])


def test_three_updates_equal_a_plain_restatement() -> None:
    """Agent by agent, sample by sample, critic by critic, from the paper's formulas."""
    algorithm = make("cfcql", alpha=2.0)
    c = algorithm.config
    parts = ("actor", "critics", "target_actor", "target_critics")
    actors, critics, target_actors, target_critics = (networks(algorithm, part) for part in parts)
    actor_adam, critic_adam = (
        torch.optim.Adam([p for n in nets for p in n], c.lr) for nets in (actors, critics)
    )
    g = torch.Generator()
    g.set_state(algorithm.members.generators[0].get_state())
    for u in range(3):
        b = joint_batch(algorithm, u)
        metrics = algorithm.update(b)
        state, after = torch.cat([*b.obs], dim=-1), torch.cat([*b.next_obs], dim=-1)
        noise = 0.05 * torch.randn(b.actions.shape, generator=g)
        uniform = torch.rand(N, 10, *b.actions.shape[1:], generator=g) * 2 - 1
        following = [(pi(target_actors[i], b.next_obs[i]) + noise[i]).clamp(-1, 1) for i in range(N)]
        bar = [mlp(net, torch.cat([after, *following], dim=-1))[:, 0] for net in target_critics]
        y = (b.rewards.mean(dim=0) + c.gamma * (1 - b.terminated[0]) * torch.minimum(*bar)).detach()
        td, gap = [], []
        for net in critics:
            q = mlp(net, torch.cat([state, *b.actions], dim=-1))[:, 0]
            td.append((y - q).square().mean())
            soft = []
            for i in range(N):
                sums = torch.zeros_like(q)
                for k in range(10):
                    acting = [uniform[i, k] if j == i else b.actions[j] for j in range(N)]
                    sums = sums + mlp(net, torch.cat([state, *acting], dim=-1))[:, 0].exp() / 0.25
                soft.append((sums / 10).log() - q)
            gap.append(sum(s.mean() for s in soft) / N)
        step(critic_adam, [t + 2.0 * p for t, p in zip(td, gap, strict=True)], critics)
        values, losses = [], []
        for i in range(N):
            acting = [pi(actors[i], b.obs[i]) if j == i else b.actions[j] for j in range(N)]
            values.append(mlp(critics[0], torch.cat([state, *acting], dim=-1)).mean())
            losses.append(0.1 * mlp(actors[i], b.obs[i]).square().mean() - values[-1])
        step(actor_adam, losses, actors)
        follow(target_critics, critics, c.rho)
        follow(target_actors, actors, c.rho)
        expected = {"critic/td": [sum(td) / 2], "critic/gap": [sum(gap) / 2], "actor/q": values}
        for key, each in expected.items():
            found = torch.stack([torch.as_tensor(v) for v in each]).detach()
            torch.testing.assert_close(metrics[key], found, rtol=1e-4, atol=1e-5)
    for part, nets in (("actor", actors), ("critics", critics), ("target_critics", target_critics)):
        for own, other in zip(networks(algorithm, part), nets, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_with_one_agent_it_is_ma_cql() -> None:
    """Nobody else is there to deviate from; the same weights and draws give the same losses."""
    one = dataclasses.replace(SPEC, agent_names=("only",), obs_dims=(5,))
    settings = {"actor_widths": (16, 16), "critic_widths": (16, 16), "alpha": 2.0}
    central, own = (
        algorithms.create(kind, kind.config_type(**settings), one, 1, CPU, generators(0))
        for kind in map(algorithms.load, ("cfcql", "ma-cql"))
    )
    b = Batch(**{name: value[:1] for name, value in vars(joint_batch(central)).items()})
    own.members.load_weights(copy.deepcopy(central.members.weights()))
    central.members.normal = lambda like: torch.zeros_like(like)  # type: ignore[method-assign]
    for loss in ("critic_loss", "actor_loss"):
        one_loss, other_loss = getattr(central, loss)(b)[0], getattr(own, loss)(b)[0]
        torch.testing.assert_close(one_loss, other_loss)


def test_actors_move_every_policy_delay_updates() -> None:
    algorithm = make("cfcql", policy_delay=3)
    moved = []
    for u in range(6):
        before = copy.deepcopy(algorithm.members.weights()["actor.mlp.layers.0.weight"])
        metrics = algorithm.update(joint_batch(algorithm, u))
        moved.append(not torch.equal(before, algorithm.members.weights()["actor.mlp.layers.0.weight"]))
        assert ("actor/q" in metrics) == moved[-1]
    assert moved == [False, False, True] * 2


def test_it_learns_a_joint_task() -> None:
    """One shared reward for how far both are from the best joint action; the data's actions are uniform."""
    pair = dataclasses.replace(SPEC, agent_names=("left", "right"), obs_dims=(2, 2), reward="shared")
    kind = algorithms.load("cfcql")
    config = kind.config_type(actor_widths=(64, 64), critic_widths=(64, 64), alpha=0.1)
    algorithm = algorithms.create(kind, config, pair, 1, CPU, generators(0))
    (g,) = generators(1)
    for _ in range(400):
        obs, actions = (torch.rand(2, 128, 2, generator=g) * 2 - 1 for _ in range(2))
        miss = (actions - torch.tensor([0.3, -0.4])).square().sum(dim=(0, 2))
        algorithm.update(Batch(obs, actions, -miss.expand(2, -1), obs, torch.ones(2, 128)))
    obs = torch.rand(500, 2, 2, generator=g) * 2 - 1
    actions = algorithm.policy(0).act(obs, g)
    assert -(actions - torch.tensor([0.3, -0.4])).square().sum(dim=(1, 2)).mean() > -0.2  # of uniform: -1.83


def test_metrics_of_critics_are_per_seed() -> None:
    algorithm = make("cfcql", seeds=2)
    metrics = algorithm.update(minibatch(algorithm, range(2)))
    assert {k: len(v) for k, v in metrics.items() if k.startswith("actor")} == {
        "actor/q": 6,
        "actor/grad_norm": 6,
    }
    assert {len(v) for k, v in metrics.items() if k.startswith("critic")} == {2}
    assert math.isfinite(sum(v.sum().item() for v in metrics.values()))


@pytest.mark.parametrize("bad", [{"n_uniform": 0}, {"rho": 2.0}, {"policy_delay": 0}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        make("cfcql", **bad)
