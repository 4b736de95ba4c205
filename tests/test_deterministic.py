"""The family of deterministic actors, from cloning to OMAR: each is its relative with one thing more."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_algorithms import make
from tiny import CPU, SPEC, generators, minibatch
from torch import Tensor

from dom2 import algorithms, presets
from dom2.algorithms import Algorithm
from dom2data.spec import Batch
from dom2data.windows import Windows

Net = list[Tensor]  # weight, bias, weight, bias, ... of one network
N, UPDATES = SPEC.n_agents, 3


def networks(algorithm: Algorithm, part: str) -> list[Net]:
    """Every network of a stack by itself, as tensors to be optimised."""
    own = [v for k, v in algorithm.members.weights().items() if k.startswith(f"{part}.")]
    return [[v[i].clone().requires_grad_() for v in own] for i in range(len(own[0]))]


def mlp(net: Net, x: Tensor) -> Tensor:
    *hidden, (weight, bias) = zip(net[::2], net[1::2], strict=True)
    for w, b in hidden:
        x = (x @ w + b).relu()
    return x @ weight + bias


def pi(net: Net, obs: Tensor) -> Tensor:
    return mlp(net, obs).tanh()


def value(net: Net, obs: Tensor, actions: Tensor) -> Tensor:
    """actions [..., B, A] at obs [B, O] -> Q [..., B]"""
    return mlp(net, torch.cat([obs.expand(*actions.shape[:-1], -1), actions], dim=-1)).squeeze(-1)


def step(optimiser: torch.optim.Optimizer, losses: list[Tensor], nets: list[Net]) -> None:
    """Each network down its own loss, its gradient no longer than 1."""
    for loss, net in zip(losses, nets, strict=True):
        gradients = torch.autograd.grad(loss, net, retain_graph=True)
        norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
        for p, g in zip(net, gradients, strict=True):
            p.grad = g * min(1.0, 1.0 / (norm + 1e-6))
    optimiser.step()


def follow(targets: list[Net], nets: list[Net], rho: float) -> None:
    with torch.no_grad():
        for target, net in zip(targets, nets, strict=True):
            for t, p in zip(target, net, strict=True):
                t.copy_((1 - rho) * t + rho * p)


class Plain:
    """The same algorithms written agent by agent and critic by critic, from the papers' formulas."""

    def __init__(self, algorithm: Algorithm):
        self.c, self.actors = algorithm.config, networks(algorithm, "actor")
        self.critics, self.target_critics = (
            networks(algorithm, "critics"),
            networks(algorithm, "target_critics"),
        )
        self.target_actors = networks(algorithm, "target_actor")
        self.g = torch.Generator()
        self.g.set_state(algorithm.members.generators[0].get_state())
        self.actor_adam = torch.optim.Adam([p for net in self.actors for p in net], self.c.lr)
        self.critic_adam = torch.optim.Adam([p for net in self.critics for p in net], self.c.lr)

    def target(self, b: Batch, agent: int, next_action: Tensor) -> Tensor:
        pair = self.target_critics[2 * agent : 2 * agent + 2]
        q = torch.minimum(*(value(net, b.next_obs[agent], next_action) for net in pair))
        return (b.rewards[agent] + self.c.gamma * (1 - b.terminated[agent]) * q).detach()

    def td3_bc(self, b: Batch, update: int) -> dict[str, list[Tensor]]:
        noise = (0.2 * torch.randn(b.actions.shape, generator=self.g)).clamp(-0.5, 0.5)
        losses, bc, q_pi, actor_losses = [], [], [], []
        for i in range(N):
            y = self.target(b, i, (pi(self.target_actors[i], b.next_obs[i]) + noise[i]).clamp(-1, 1))
            losses += [
                (y - value(self.critics[2 * i + k], b.obs[i], b.actions[i])).square().mean() for k in (0, 1)
            ]
        step(self.critic_adam, losses, self.critics)
        found = {"critic/td": [(losses[2 * i] + losses[2 * i + 1]) / 2 for i in range(N)]}
        if update % 2 == 0:
            return found
        for i in range(N):
            actions = pi(self.actors[i], b.obs[i])
            q = value(self.critics[2 * i], b.obs[i], actions)
            bc.append((actions - b.actions[i]).square().mean())
            q_pi.append(q.mean())
            actor_losses.append(bc[-1] - self.c.alpha / q.abs().mean().detach() * q.mean())
        step(self.actor_adam, actor_losses, self.actors)
        follow(self.target_critics, self.critics, self.c.rho)
        follow(self.target_actors, self.actors, self.c.rho)
        return found | {"actor/bc": bc, "actor/q": q_pi}

    def cql(self, b: Batch, update: int) -> dict[str, list[Tensor]]:
        c, (_, size, dim) = self.c, b.actions.shape
        random = [torch.rand(N, c.n_uniform, size, dim, generator=self.g) * 2 - 1]
        logs = [torch.full((N, c.n_uniform, size), math.log(0.5**dim))]
        for obs in (b.obs, b.next_obs) if c.n_policy else ():
            draws = torch.distributions.Normal(
                torch.stack([pi(net, o) for net, o in zip(self.actors, obs, strict=True)])[:, None], 0.2
            )
            noise = torch.randn(N, c.n_policy, size, dim, generator=self.g)
            random.append((draws.mean + 0.2 * noise).clamp(-1, 1).detach())
            logs.append(draws.log_prob(draws.mean + 0.2 * noise).sum(-1).detach())
        others, log_p = torch.cat(random, dim=1), torch.cat(logs, dim=1)
        td, gap = [], []
        for m in range(2 * N):
            i = m // 2
            y = self.target(b, i, pi(self.target_actors[i], b.next_obs[i]))
            q = value(self.critics[m], b.obs[i], b.actions[i])
            td.append((y - q).square().mean())
            ratio = (value(self.critics[m], b.obs[i], others[i]) - log_p[i]).exp().mean(dim=0)
            gap.append((ratio.log() - q).mean())
        step(self.critic_adam, [t + c.alpha * g for t, g in zip(td, gap, strict=True)], self.critics)
        metrics = {"critic/td": td, "critic/gap": gap}
        found = {k: [(v[2 * i] + v[2 * i + 1]) / 2 for i in range(N)] for k, v in metrics.items()}
        found |= self.improve(b)
        follow(self.target_critics, self.critics, c.rho)
        follow(self.target_actors, self.actors, c.rho)
        return found

    def improve(self, b: Batch) -> dict[str, list[Tensor]]:
        losses, q_pi, distances = [], [], []
        coe = getattr(self.c, "coe", 0.0)
        better = self.search(b) if coe else b.actions
        for i in range(N):
            z = mlp(self.actors[i], b.obs[i])
            actions = z.tanh()
            q_pi.append(value(self.critics[2 * i], b.obs[i], actions).mean())
            distances.append((actions - better[i]).square().mean())
            losses.append(coe * distances[-1] + (1 - coe) * (0.1 * z.square().mean() - q_pi[-1]))
        step(self.actor_adam, losses, self.actors)
        return {"actor/q": q_pi} | ({"actor/distance": distances} if coe else {})

    @torch.no_grad()
    def search(self, b: Batch) -> Tensor:
        c, better = self.c, []
        shape = (N, c.samples, *b.actions.shape[1:])
        noise = [torch.randn(shape, generator=self.g) for _ in range(c.iterations)]
        for i in range(N):
            columns = []
            for r in range(b.actions.shape[1]):  # observation by observation
                mean, std, elites = torch.zeros(2), torch.full((2,), 2.0), torch.zeros(0, 2)
                for round_ in range(c.iterations):
                    pool = torch.cat([(mean + std * noise[round_][i, :, r]).clamp(-1, 1), elites])
                    q = value(self.critics[2 * i], b.obs[i, r], pool[:, None])[:, 0]
                    if c.elites:
                        elites = pool[q.argsort(descending=True)[: c.elites]]
                        mean, std = elites.mean(dim=0), elites.std(dim=0)
                    else:
                        weights = (q - q.max()).exp()
                        mean = (weights[:, None] * pool).sum(dim=0) / weights.sum()
                        std = (pool - mean).square().mean(dim=0).sqrt()
                    std = std.clamp_min(1e-3)
                own = pi(self.actors[i], b.obs[i, r : r + 1])
                pool = torch.cat([pool, own])
                columns.append(pool[value(self.critics[2 * i], b.obs[i, r], pool[:, None])[:, 0].argmax()])
            better.append(torch.stack(columns))
        return torch.stack(better)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ma-td3+bc", {}),
        ("ma-cql", {"alpha": 2.0}),
        ("ma-cql", {"alpha": 2.0, "n_policy": 4}),
        ("omar", {"coe": 0.7}),
        ("omar", {"coe": 0.7, "iterations": 2, "samples": 20, "elites": 5}),
    ],
)
def test_three_updates_equal_a_plain_restatement(name: str, settings: dict) -> None:
    """Losses of three updates and the weights after them, against code that shares nothing but the draws."""
    algorithm = make(name, **settings)
    plain = Plain(algorithm)
    for u in range(UPDATES):
        b = minibatch(algorithm, range(1), u)
        metrics, expected = algorithm.update(b), (plain.td3_bc if name == "ma-td3+bc" else plain.cql)(b, u)
        for key, values in expected.items():
            torch.testing.assert_close(metrics[key], torch.stack(values).detach(), rtol=1e-4, atol=1e-5)
    for part, nets in (
        ("actor", plain.actors),
        ("critics", plain.critics),
        ("target_critics", plain.target_critics),
    ):
        for own, other in zip(networks(algorithm, part), nets, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def trained(name: str, updates: int = UPDATES, **settings: Any) -> dict[str, Tensor]:
    algorithm = make(name, **settings)
    for u in range(updates):
        algorithm.update(minibatch(algorithm, range(1), u))
    return algorithm.members.weights()


def test_td3_bc_without_q_is_cloning() -> None:
    cloned, other = trained("bc"), trained("ma-td3+bc", alpha=0.0, policy_delay=1, lr=1e-3)
    assert all(torch.equal(other[key], v) for key, v in cloned.items())
    assert not torch.equal(trained("ma-td3+bc", policy_delay=1, lr=1e-3)["actor.mlp.layers.0.weight"],
                           cloned["actor.mlp.layers.0.weight"])  # fmt: skip


def test_cql_without_penalty_is_independent_td3() -> None:
    """What is left is a regression on y and an ascent of Q_1, written out."""
    algorithm, b = make("ma-cql", alpha=0.0, action_penalty=0.0), minibatch(make("bc"), range(1))
    with torch.no_grad():
        q = algorithm.target_critics(b.next_obs, algorithm.target_actor(b.next_obs)[:, None])[:, :, 0]
        y = b.rewards + 0.95 * (1 - b.terminated) * q.min(dim=1).values
    td = (algorithm.critics(b.obs, b.actions[:, None])[:, :, 0] - y[:, None]).square().mean(dim=2)
    torch.testing.assert_close(algorithm.critic_loss(b)[0], td.sum())
    up = algorithm.critics(b.obs, algorithm.actor(b.obs)[:, None])[:, 0, 0].mean(dim=1)
    torch.testing.assert_close(algorithm.actor_loss(b)[0], -up.sum())


def test_omar_without_search_is_ma_cql() -> None:
    one, other = trained("ma-cql"), trained("omar", coe=0.0)
    assert one.keys() == other.keys()
    assert all(torch.equal(other[key], v) for key, v in one.items())


def test_omar_with_a_flat_q_stays_finite() -> None:
    """All samples weigh the same; with elites, any may be kept."""
    for settings in ({}, {"elites": 5, "samples": 20}):
        algorithm, b = make("omar", coe=1.0, **settings), minibatch(make("bc"), range(1))
        with torch.no_grad():
            algorithm.critics.mlp.layers[-1].weight.zero_()
        found, _ = algorithm.search(b.obs, algorithm.actor(b.obs).detach())
        assert found.isfinite().all()
        assert found.abs().max() <= 1.0
        assert algorithm.actor_loss(b)[0].isfinite()


def test_the_search_finds_a_better_action() -> None:
    algorithm, b = make("omar"), minibatch(make("bc"), range(1))
    actions = algorithm.actor(b.obs).detach()
    found, q_found = algorithm.search(b.obs, actions)
    own = algorithm.critics(b.obs, torch.stack([actions, found], dim=1))[:, 0]
    assert (own[:, 1] >= own[:, 0]).all()
    assert (own[:, 1] > own[:, 0]).float().mean() > 0.5
    torch.testing.assert_close(q_found, own[:, 1].mean(dim=1))


ONE = dataclasses.replace(SPEC, agent_names=("only",), obs_dims=(2,))
BEST = torch.tensor([0.3, -0.4])
WIDE = {"actor_widths": (64, 64), "critic_widths": (64, 64)}


Drawing = Callable[[torch.Generator, Tensor], Tensor]
"""Actions of the data at observations [1, B, 2]."""


def uniform(g: torch.Generator, obs: Tensor) -> Tensor:
    return torch.rand(obs.shape, generator=g) * 2 - 1


def learn(name: str, updates: int, draw: Drawing = uniform, **settings: Any) -> tuple[Tensor, Tensor]:
    """Train on one-step episodes whose reward is highest at ``BEST``; returns observations and answers."""
    kind = algorithms.load(name)
    algorithm = algorithms.create(kind, kind.config_type(**settings), ONE, 1, CPU, generators(0))
    (g,) = generators(1)
    for _ in range(updates):
        obs = torch.rand(1, 128, 2, generator=g) * 2 - 1
        actions = draw(g, obs)
        rewards, ones = -(actions - BEST).square().sum(dim=-1), torch.ones(1, 128)
        if algorithm.batches == "windows":
            padded = [torch.stack([x, torch.zeros_like(x)], dim=2).unsqueeze(3) for x in (actions, rewards)]
            both = torch.stack([obs, obs], dim=2).unsqueeze(3)
            flags = torch.stack([ones, 0 * ones], dim=2)
            begin = torch.zeros(1, 128, dtype=torch.long)
            algorithm.update(Windows(both, *padded, flags, flags, rewards.unsqueeze(2), begin))
        else:
            algorithm.update(Batch(obs, actions, rewards, obs, ones))
    obs = torch.rand(500, 1, 2, generator=g) * 2 - 1
    return obs[:, 0], algorithm.policy(0).act(obs, g)[:, 0]


def test_cloning_learns_the_datas_function() -> None:
    obs, actions = learn("bc", 300, lambda g, obs: 0.5 * obs + 0.1 * torch.randn(obs.shape, generator=g),
                         actor_widths=(64, 64))  # fmt: skip
    assert (actions - 0.5 * obs).abs().mean() < 0.03


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ma-td3+bc", {"alpha": 20.0}),
        ("ma-cql", {"alpha": 0.1}),
        ("omar", {"alpha": 0.1, "coe": 0.9}),
    ],
)
def test_improvement_finds_the_best_action(name: str, settings: dict) -> None:
    """The data's actions are uniform; their mean reward is -0.92, the best 0."""
    _, actions = learn(name, 300, **WIDE, **settings)
    assert -(actions - BEST).square().sum(dim=-1).mean() > -0.1


def test_more_penalty_means_a_smaller_gap() -> None:
    def gap(alpha: float) -> float:
        # At 0.01 both are at the least gap there is, 2 log 2.
        algorithm = make("ma-cql", alpha=alpha, lr=3e-3)
        for u in range(60):
            metrics = algorithm.update(minibatch(algorithm, range(1), u))
        return metrics["critic/gap"].mean().item()

    assert gap(0.0) > gap(1.0) > gap(5.0)


def test_presets_of_a_task_are_those_published() -> None:
    """coe and alpha of OMAR's four qualities; of the mixtures, which it lacks, those next to them.

    Two are tuned: alpha on random and medium-replay of halfcheetah (published: 1 and 5).
    """
    published = {
        "spread": ((1.0, 0.5), (1.0, 1.0), (1.0, 5.0), (1.0, 5.0)),
        "tag": ((0.9, 0.5), (0.9, 0.5), (0.7, 5.0), (0.9, 5.0)),
        "world": ((1.0, 0.5), (0.7, 1.0), (0.1, 0.5), (0.9, 5.0)),
        "halfcheetah": ((1.0, 0.1), (0.9, 0.1), (0.7, 1.0), (0.5, 5.0)),
    }
    for env, row in published.items():
        for quality, (coe, alpha) in zip(("random", "medium-replay", "medium", "expert"), row, strict=True):
            found = presets.defaults("omar", env, quality)
            assert (found["coe"], found["alpha"]) == (coe, alpha)
            for name in ("ma-cql", "cfcql"):
                assert presets.defaults(name, env, quality)["alpha"] == alpha
        mixtures = (presets.defaults("omar", env, quality) for quality in ("random-medium", "medium-expert"))
        poor, good = ((found["coe"], found["alpha"]) for found in mixtures)
        (medium, low), (expert, high) = row[2:]
        assert (poor, good[0]) == (row[1], pytest.approx((medium + expert) / 2))
        assert low <= good[1] <= high
    assert set(presets.defaults("omar", "tag", "medium")) == {"alpha", "coe"}
    assert presets.defaults("bc", "tag", "medium") == {}
    cheetah = presets.defaults("omar", "halfcheetah", "expert")
    assert (cheetah["gamma"], cheetah["elites"], cheetah["coe"]) == (0.99, 5, 0.5)
