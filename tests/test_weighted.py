"""Algorithms that weigh the data's own actions: no critic is asked about another one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_algorithms import make
from test_deterministic import BEST, Net, follow, learn, mlp, networks, pi, step, trained, value
from tiny import SPEC, minibatch
from torch import Tensor

from dom2.algorithms.ma_icq import transitions
from dom2data.spec import Batch

N = SPEC.n_agents


def gaussian(net: Net, obs: Tensor, actions: Tensor) -> Tensor:
    """log N(a; tanh network, exp log_std), the exponent and the normaliser written out."""
    log_std, *rest = net
    z = (actions - pi(rest, obs)) / log_std.exp()
    return (-0.5 * z.square() - log_std - 0.5 * torch.log(torch.tensor(2 * torch.pi))).sum(dim=-1)


@pytest.mark.parametrize("normalise", [False, True])
def test_iql_equals_a_plain_restatement(normalise: bool) -> None:
    """Losses of three updates and the weights after them, agent by agent, from the paper's formulas."""
    algorithm = make("ma-iql", tau=0.8, beta=2.0, normalise=normalise, max_weight=1.5)
    parts = {part: networks(algorithm, part) for part in ("actor", "value", "critics", "target_critics")}
    adam = {part: torch.optim.Adam([p for net in parts[part] for p in net], algorithm.config.lr)
            for part in ("actor", "value", "critics")}  # fmt: skip
    for u in range(3):
        b = minibatch(algorithm, range(1), u)
        metrics = algorithm.update(b)

        def q_bar(i: int, b: Batch = b) -> Tensor:
            pair = parts["target_critics"][2 * i : 2 * i + 2]
            return torch.minimum(*(value(net, b.obs[i], b.actions[i]) for net in pair)).detach()

        def v(i: int, obs: Tensor) -> Tensor:
            return mlp(parts["value"][i], obs[i])[:, 0]

        losses = []
        for i in range(N):
            d = q_bar(i) - v(i, b.obs)
            losses.append(torch.where(d > 0, 0.8 * d * d, 0.2 * d * d).mean())
        torch.testing.assert_close(metrics["value/loss"], torch.stack(losses).detach())
        step(adam["value"], losses, parts["value"])
        y = [(b.rewards[i] + 0.95 * (1 - b.terminated[i]) * v(i, b.next_obs)).detach() for i in range(N)]
        losses = [(y[m // 2] - value(net, b.obs[m // 2], b.actions[m // 2])).square().mean()
                  for m, net in enumerate(parts["critics"])]  # fmt: skip
        step(adam["critics"], losses, parts["critics"])
        follow(parts["target_critics"], parts["critics"], 0.02)
        losses = []
        for i in range(N):
            advantage = (q_bar(i) - v(i, b.obs)).detach()
            size = advantage.abs().mean() if normalise else 1.0
            weight = (2.0 * advantage / size).exp().clamp_max(1.5)
            losses.append(-(weight * gaussian(parts["actor"][i], b.obs[i], b.actions[i])).mean())
        torch.testing.assert_close(metrics["actor/loss"], torch.stack(losses).detach())
        step(adam["actor"], losses, parts["actor"])
    for part, nets in parts.items():
        for own, other in zip(networks(algorithm, part), nets, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_iql_without_beta_is_cloning() -> None:
    cloned, other = trained("bc"), trained("ma-iql", beta=0.0, policy="deterministic", lr=1e-3)
    for key, v in cloned.items():
        torch.testing.assert_close(other[key], v)


def test_iql_at_expectile_one_half_learns_the_mean_of_q() -> None:
    """V at o is the mean of Q over the actions taken there; a higher expectile lies above it."""

    def gap(tau: float) -> float:
        algorithm, b = make("ma-iql", tau=tau), minibatch(make("bc"), range(1))
        b = dataclasses.replace(b, obs=torch.zeros_like(b.obs))
        q = algorithm.target_critics(b.obs, b.actions[:, None])[:, :, 0].amin(dim=1)
        for _ in range(300):
            algorithm.members.descend("value", algorithm.value_loss(b)[0], 1.0)
        return (algorithm.value(b.obs)[:, 0, 0] - q.mean(dim=1)).mean().item()

    assert abs(gap(0.5)) < 1e-3
    assert gap(0.9) > 0.01


def test_icq_with_large_temperatures_is_cloning_and_evaluation_of_the_data() -> None:
    algorithm = make("ma-icq", beta=1e9, beta_target=1e9)
    pairs = transitions(minibatch(algorithm, range(1)))
    b = pairs.batch
    log_prob = torch.stack([gaussian(net, b.obs[i], b.actions[i])
                            for i, net in enumerate(networks(algorithm, "actor"))])  # fmt: skip
    torch.testing.assert_close(algorithm.actor_loss(b)[0], -log_prob.mean(dim=1).sum())
    next_q = algorithm.target_critics(b.next_obs, pairs.next_actions[:, None])[:, :, 0].amin(dim=1)
    y = b.rewards + 0.95 * next_q
    q = algorithm.critics(b.obs, b.actions[:, None])[:, :, 0]
    kept = pairs.went_on[0] > 0
    assert 0 < kept.sum() < 32
    td = (q - y[:, None])[:, :, kept].square().mean(dim=2)
    torch.testing.assert_close(algorithm.critic_loss(pairs)[0], td.sum())


def test_icq_equals_a_plain_restatement() -> None:
    """Losses of three updates and the weights after them, agent by agent."""
    algorithm, twin = make("ma-icq", beta=0.5, beta_target=2.0), torch.Generator()
    parts = {part: networks(algorithm, part) for part in ("actor", "critics", "target_critics")}
    adam = {part: torch.optim.Adam([p for net in parts[part] for p in net], algorithm.config.lr)
            for part in ("actor", "critics")}  # fmt: skip

    def least(part: str, i: int, obs: Tensor, actions: Tensor) -> Tensor:
        return torch.minimum(*(value(net, obs, actions) for net in parts[part][2 * i : 2 * i + 2])).detach()

    def drawn(i: int, obs: Tensor, noise: Tensor) -> Tensor:
        log_std, *rest = parts["actor"][i]
        return (pi(rest, obs) + log_std.exp() * noise).clamp(-1, 1).detach()

    for u in range(3):
        windows = minibatch(algorithm, range(1), u)
        windows.terminated[:, 8:16, 0] = windows.taken[:, :8, 1] = 0.0
        windows.terminated[:, :4, 0] = 1.0  # four ended, four were cut by the clock, the others went on
        twin.set_state(algorithm.members.generators[0].get_state())
        metrics = algorithm.update(windows)
        pairs = transitions(windows)
        b, noise, on = pairs.batch, torch.randn(N, 32, 2, generator=twin), pairs.went_on[0] > 0
        losses = []
        for i in range(N):
            q_bar = least("target_critics", i, b.next_obs[i], pairs.next_actions[i])
            advantage = q_bar - least("target_critics", i, b.next_obs[i], drawn(i, b.next_obs[i], noise[i]))
            weight = torch.zeros(32)
            weight[on] = (advantage[on] / 2).softmax(dim=0) * on.sum()
            y = b.rewards[i] + 0.95 * (1 - b.terminated[i]) * weight * q_bar
            known = on | (b.terminated[i] > 0)
            losses += [(value(net, b.obs[i], b.actions[i]) - y)[known].square().mean()
                       for net in parts["critics"][2 * i : 2 * i + 2]]  # fmt: skip
        both = torch.stack(losses).view(N, 2).mean(dim=1)
        torch.testing.assert_close(metrics["critic/td"], both.detach())
        step(adam["critics"], losses, parts["critics"])
        noise, losses = torch.randn(N, 32, 2, generator=twin), []
        for i in range(N):
            advantage = least("critics", i, b.obs[i], b.actions[i])
            advantage = advantage - least("critics", i, b.obs[i], drawn(i, b.obs[i], noise[i]))
            weight = (advantage / advantage.abs().mean() / 0.5).softmax(dim=0) * 32
            losses.append(-(weight * gaussian(parts["actor"][i], b.obs[i], b.actions[i])).mean())
        torch.testing.assert_close(metrics["actor/loss"], torch.stack(losses).detach())
        step(adam["actor"], losses, parts["actor"])
        follow(parts["target_critics"], parts["critics"], 0.02)
    for part, nets in parts.items():
        for own, other in zip(networks(algorithm, part), nets, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("ma-iql", {"beta": 10.0, "tau": 0.9}), ("ma-icq", {"beta": 0.2}), ("omiga", {"alpha": 0.05})],
)
def test_improvement_finds_the_best_action(name: str, settings: dict) -> None:
    """The data's actions are uniform; their mean reward is -0.92, that of cloning -0.25, the best 0."""
    widths = {"actor_widths": (64, 64), "critic_widths": (64, 64)}
    _, actions = learn(name, 400, **widths, **settings)
    assert -(actions - BEST).square().sum(dim=-1).mean() > -0.1


def test_omiga_equals_a_plain_restatement() -> None:
    """Losses of three updates and the weights after them, from the paper's formulas."""
    algorithm = make("omiga", alpha=2.0, max_weight=1.2)
    parts = ("actor", "value", "critics", "mixer.weight", "mixer.bias")
    nets = {part: networks(algorithm, part) for part in parts}
    bars = {part: networks(algorithm, f"target_{part}") for part in parts[1:]}
    lr = algorithm.config.lr
    adam = {part: torch.optim.Adam([p for net in nets[part] for p in net], lr) for part in parts[:3]}
    mixer = [[*nets["mixer.weight"][0], *nets["mixer.bias"][0]]]
    adam["mixer"] = torch.optim.Adam(mixer[0], lr)

    def mix(of: dict[str, list[Net]], obs: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([*obs], dim=-1)
        return mlp(of["mixer.weight"][0], state).abs(), mlp(of["mixer.bias"][0], state)[:, 0]

    for u in range(3):
        b = minibatch(make("bc"), range(1), u)
        ended = b.terminated[0].expand(N, -1)
        b = dataclasses.replace(b, terminated=ended)
        metrics = algorithm.update(b)
        w, bias = mix(bars, b.next_obs)
        next_v = bias + sum(w[:, i] * mlp(bars["value"][i], b.next_obs[i])[:, 0] for i in range(N))
        y = (b.rewards.mean(dim=0) + 0.95 * (1 - ended[0]) * next_v).detach()
        w, bias = mix(nets, b.obs)
        q_tot = bias + sum(w[:, i] * value(nets["critics"][i], b.obs[i], b.actions[i]) for i in range(N))
        loss = (y - q_tot).square().mean()
        torch.testing.assert_close(metrics["critic/td"], loss.detach()[None])
        own = [torch.autograd.grad(loss, net, retain_graph=True) for net in nets["critics"]]
        step(adam["mixer"], [loss], mixer)
        linear = [sum((g * p).sum() for g, p in zip(gradient, net, strict=True))
                  for gradient, net in zip(own, nets["critics"], strict=True)]  # fmt: skip
        step(adam["critics"], linear, nets["critics"])
        w = mix(bars, b.obs)[0].detach()

        def z(i: int, b: Batch = b, w: Tensor = w) -> Tensor:
            q = value(bars["critics"][i], b.obs[i], b.actions[i]).detach()
            return w[:, i] * (q - mlp(nets["value"][i], b.obs[i])[:, 0]) / 2.0

        losses = []
        for i in range(N):
            top = max(z(i).max().item(), -1.0)
            plain = (z(i).exp() + w[:, i] * mlp(nets["value"][i], b.obs[i])[:, 0] / 2.0).mean()
            losses.append(plain * torch.tensor(-top).exp())
        torch.testing.assert_close(metrics["value/loss"], torch.stack(losses).detach())
        step(adam["value"], losses, nets["value"])
        losses = []
        for i in range(N):
            weight = z(i).exp().clamp_max(1.2).detach()
            losses.append(-(weight * gaussian(nets["actor"][i], b.obs[i], b.actions[i])).mean())
        torch.testing.assert_close(metrics["actor/loss"], torch.stack(losses).detach())
        step(adam["actor"], losses, nets["actor"])
        for part in parts[1:]:
            follow(bars[part], nets[part], 0.02)
    for part in parts:
        for one, other in zip(networks(algorithm, part), nets[part], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_omiga_values_meet_their_condition() -> None:
    """Where its loss is least, mean exp(z) is 1: the weights of the actor loss are a density ratio."""
    algorithm, b = make("omiga", alpha=0.1), minibatch(make("bc"), range(1))
    b = dataclasses.replace(b, obs=torch.ones_like(b.obs))  # one state, many actions
    for _ in range(600):
        loss, metrics = algorithm.value_loss(b)
        algorithm.members.descend("value", loss, 1.0)
    torch.testing.assert_close(metrics["value/exp_z"], torch.ones(N), rtol=0.02, atol=0)


def test_omiga_with_a_large_alpha_is_cloning() -> None:
    algorithm, b = make("omiga", alpha=1e9), minibatch(make("bc"), range(1))
    log_prob = algorithm.actor.log_prob(b.obs, b.actions)
    torch.testing.assert_close(algorithm.actor_loss(b)[0], -log_prob.mean(dim=1).sum())
