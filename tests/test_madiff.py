"""MADiff: what it plans from, what guides it, what its losses leave out."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from test_algorithms import make
from tiny import CPU, SPEC, generators, minibatch
from torch import Tensor
from torch.nn.functional import conv1d, scaled_dot_product_attention

from dom2 import algorithms
from dom2.algorithms import madiff
from dom2.algorithms.madiff import MADiff, hold
from dom2.members import Members
from dom2.temporal import AgentAttention, Convolution
from dom2data.errors import UserError
from dom2data.spec import EnvSpec
from dom2data.windows import Windows

N = SPEC.n_agents


def trained(updates: int = 3, **settings: object) -> MADiff:
    algorithm = make("madiff", **settings)
    for u in range(updates):
        algorithm.update(minibatch(algorithm, range(1), u))
    return algorithm


def test_convolution_is_that_of_torch() -> None:
    for stride, steps in itertools.product((1, 2), (2, 4, 8, 12)):
        layer = Convolution(2, 3, 4, generators(0, 1), stride)
        x = torch.randn(2, 5, 2, steps, 3)
        found = layer(x)
        for s in range(2):
            kernel = layer.linear.weight[s].view(3, 5, 4).permute(2, 0, 1)  # [out, in, step]
            rows = x[s].flatten(0, 1).transpose(1, 2)
            expected = conv1d(rows, kernel, layer.linear.bias[s, 0], stride, padding=2)
            torch.testing.assert_close(found[s].flatten(0, 1).transpose(1, 2), expected)


def test_attention_begins_at_nothing_and_does_not_know_the_agents_order() -> None:
    attention, x = AgentAttention(2, 16, generators(0, 1)), torch.randn(2, 5, N, 4, 16)
    assert torch.equal(attention(x), x)
    with torch.no_grad():
        attention.gate.fill_(1.0)
    order = [2, 0, 1]
    torch.testing.assert_close(attention(x[:, :, order]), attention(x)[:, :, order])
    other = x.clone()
    other[:, :, 2] += 1.0
    assert not torch.allclose(attention(other)[:, :, 0], attention(x)[:, :, 0])


def test_attention_is_torchs_of_whole_stretches() -> None:
    attention, x = AgentAttention(2, 16, generators(0, 1)), torch.randn(2, 5, N, 4, 16)
    with torch.no_grad():
        attention.gate.fill_(0.5)
    tokens = []
    for layer in (attention.query, attention.key, attention.value):
        features = x @ layer.weight[:, None, None] + layer.bias[:, None, None]
        tokens.append(features.unflatten(-1, (4, -1)).permute(0, 1, 4, 2, 3, 5).flatten(-2))  # of each head
    mixed = scaled_dot_product_attention(*tokens).unflatten(-1, (4, -1)).permute(0, 1, 3, 4, 2, 5)
    torch.testing.assert_close(attention(x), x + 0.5 * mixed.flatten(-2))


def test_a_plan_is_no_longer_than_an_episode() -> None:
    """What lies past every episode's end is never learned, and convolutions carry it into the first steps."""
    short = dataclasses.replace(SPEC, horizon=3)
    algorithms.create(MADiff, madiff.Config(horizon=4), short, 1, CPU, generators(0))
    with pytest.raises(UserError, match="at most the 4 observations of an episode, found 6"):
        algorithms.create(MADiff, madiff.Config(horizon=6), short, 1, CPU, generators(0))


@pytest.mark.parametrize("execution", ["decentralised", "centralised"])
def test_plan_loss_is_the_noises_error_where_it_counts(execution: str) -> None:
    """Written out: a first step that is known does not count, nor does what was not seen."""
    algorithm = trained(execution=execution)
    windows, twin = minibatch(algorithm, range(1), 9), torch.Generator()
    twin.set_state(algorithm.members.generators[0].get_state())
    loss, _ = algorithm.plan_loss(windows)
    plan = ((windows.obs[0] - algorithm.scale.mean[0]) / algorithm.scale.std[0]).clamp(-5, 5).transpose(1, 2)
    i = torch.randint(1, 5, (1, 32), generator=twin)
    eps = torch.randn(1, *plan.shape, generator=twin)
    own = torch.randint(0, N, (1, 32), generator=twin)[0]
    given = (torch.randint(0, 1000, (1, 32), generator=twin) >= 250).float()
    known = torch.ones(32, N) if execution == "centralised" else torch.eye(N)[own]
    alpha, sigma = algorithm.alpha[i][0], algorithm.sigma[i][0]
    noisy = alpha[:, None, None, None] * plan + sigma[:, None, None, None] * eps[0]
    noisy[:, :, 0] = torch.where(known[..., None] == 1, plan[:, :, 0], noisy[:, :, 0])
    team = windows.returns.mean(dim=2)
    share = (team - algorithm.scale.low) / (algorithm.scale.high - algorithm.scale.low)
    predicted = algorithm.model(noisy[None], known[None], i, share, given)
    errors = [
        (predicted[0, row, n, h] - eps[0, row, n, h]).square().mean()
        for row, n, h in itertools.product(range(32), range(N), range(4))
        if (known[row, n] == 0 if h == 0 else windows.taken[0, row, h - 1] == 1)
    ]
    torch.testing.assert_close(loss, torch.stack(errors).mean())


def test_losses_do_not_feel_what_lies_past_the_end() -> None:
    algorithm = trained()
    windows = minibatch(algorithm, range(1), 5)
    windows.taken[:, :8, 1:] = 0.0
    changed = windows.actions.clone()
    changed[:, :8, 1:] = 99.0
    a, b = (algorithm.inverse_loss(dataclasses.replace(windows, actions=x))[0]
            for x in (windows.actions, changed))  # fmt: skip
    assert torch.equal(a, b)
    pairs = torch.cat([algorithm.scale.standardise(windows.obs.transpose(2, 3))[0, :, 1, h]
                       for h in (0, 1)], dim=-1)  # fmt: skip
    found = algorithm.inverse(pairs.expand(N, -1, -1))[1]
    first = (found - windows.actions[0, :, 0, 1]).square().mean(dim=-1)
    only = dataclasses.replace(windows, taken=torch.cat([torch.ones(1, 32, 1), torch.zeros(1, 32, 3)], dim=2))
    torch.testing.assert_close(algorithm.inverse_loss(only)[1]["inverse/loss"][1], first.mean().detach())


def test_without_guidance_the_model_is_not_told_a_return() -> None:
    """w = 0 is the unconditional model, w = 1 the conditional one, 2 as far beyond."""
    algorithm, x, known = trained(), torch.randn(1, 6, N, 4, 5), torch.ones(1, 6, N)
    zeros, ones = torch.zeros(1, 6), torch.ones(1, 6)
    plain = algorithm.planner(x, known, 3, 0.9 * ones, zeros)
    told = algorithm.planner(x, known, 3, 0.9 * ones, ones)
    assert not torch.allclose(plain, told)
    for w, expected in ((0.0, plain), (1.0, told), (2.0, 2 * told - plain)):
        policy = algorithm.policy(0)
        policy.config = dataclasses.replace(policy.config, guidance=w)
        torch.testing.assert_close(policy.guided(x, known, 3), expected)


@pytest.mark.parametrize("execution", ["decentralised", "centralised"])
def test_who_sees_what(execution: str) -> None:
    """An agent that plans for itself does not feel what the others observe; one plan for all does."""
    algorithm = trained(execution=execution)
    with torch.no_grad():
        for attention in algorithm.planner.attend:
            attention.gate.fill_(1.0)
    policy, obs = algorithm.policy(0), torch.randn(4, N, 5)
    other = obs.clone()
    other[:, 1:] += 1.0
    one, two = (policy.act(o, *generators(3))[:, 0] for o in (obs, other))
    assert torch.equal(one, two) == (execution == "decentralised")


def test_each_agent_takes_its_own_action_from_its_own_plan() -> None:
    """Row e N + j is what agent j of row e plans for all, knowing its own observation alone."""
    policy, obs, plans = trained().policy(0), torch.randn(4, N, 5), torch.randn(1, 4 * N, N, 4, 5)
    asked: list[Tensor] = []
    policy.plan = lambda seen, known, *_: asked.extend((seen, known)) or plans  # type: ignore[method-assign]
    found = policy.act(obs, *generators(0))
    standard = (obs - policy.scale.mean[0]) / policy.scale.std[0]
    seen, known = asked
    for row, agent in itertools.product(range(4), range(N)):
        plan = row * N + agent
        torch.testing.assert_close(seen[0, plan, agent], standard[row, agent].clamp(-5, 5))
        assert torch.equal(known[0, plan], torch.eye(N)[agent])
        pair = torch.cat([seen[0, plan, agent], plans[0, plan, agent, 1]])
        torch.testing.assert_close(found[row, agent], policy.inverse(pair.expand(N, 1, -1))[agent, 0])


@pytest.mark.parametrize(("stride", "times"), [(1, (4, 3, 2, 1, 0)), (2, (4, 2, 0))])
def test_ddim_asks_at_the_times_that_it_visits(stride: int, times: tuple[int, ...]) -> None:
    """Written out with the times of training, from noise of the temperature's spread."""
    algorithm = trained(sampler="ddim", stride=stride, guidance=0.0, temperature=0.7)
    seen, known, zeros = torch.randn(1, 6, N, 5), torch.eye(N)[None].repeat(1, 2, 1), torch.zeros(1, 6)
    x = 0.7 * torch.randn(1, 6, N, 4, 5, generator=generators(0)[0])
    for i, j in itertools.pairwise(times):
        eps = algorithm.planner(hold(x, seen, known), known, i, zeros, zeros)
        x0 = ((x - algorithm.sigma[i] * eps) / algorithm.alpha[i]).clamp(-5, 5)
        x = algorithm.alpha[j] * x0 + algorithm.sigma[j] / algorithm.sigma[i] * (x - algorithm.alpha[i] * x0)
    found = algorithm.policy(0).plan(seen, known, *generators(0), deterministic=False)
    torch.testing.assert_close(found, hold(x, seen, known).detach(), rtol=1e-4, atol=1e-4)


def test_a_team_of_one_learns_and_plans_the_same_either_way() -> None:
    config = madiff.Config(horizon=4, dim=8, n_steps=4, inverse_widths=(16,))
    other = dataclasses.replace(config, execution="centralised")
    one, two = (MADiff(c, ONE, Members(ONE, 1, CPU, generators(0))) for c in (config, other))
    for algorithm in (one, two):
        (g,) = generators(2)
        for _ in range(3):
            algorithm.update(walk(g))
    for a, b in zip(one.planner.parameters(), two.planner.parameters(), strict=True):
        assert torch.equal(a, b)
    obs = torch.randn(6, 1, 2)
    torch.testing.assert_close(one.policy(0).act(obs, *generators(1)), two.policy(0).act(obs, *generators(1)))


def test_a_minibatch_of_one_has_a_scale() -> None:
    algorithm = make("madiff")
    algorithm.update(minibatch(algorithm, range(1), 0, 1))
    assert algorithm.scale.std.unique().tolist() == [pytest.approx(0.05)]


def test_the_scale_is_the_first_minibatchs_and_the_range_of_all() -> None:
    algorithm, windows = make("madiff"), [minibatch(make("madiff"), range(1), u) for u in (0, 1, 2)]
    for each in windows:
        algorithm.update(each)
    start, scale = windows[0].obs[:, :, 0], algorithm.scale
    torch.testing.assert_close(scale.mean, start.mean(dim=1))
    torch.testing.assert_close(scale.std, start.std(dim=1, correction=0))
    team = torch.cat([each.returns.mean(dim=2) for each in windows], dim=1)[0]
    torch.testing.assert_close(
        torch.cat([scale.low[0], scale.high[0]]), torch.stack([team.min(), team.max()])
    )
    assert team.min() < windows[2].returns.mean(dim=2).min()  # an earlier one's


@pytest.mark.parametrize("settings", [{}, {"sampler": "ddim"}, {"sampler": "ddim", "stride": 2}])
def test_plans_keep_what_is_known(settings: dict) -> None:
    policy = trained(**settings).policy(0)
    seen, known = torch.randn(1, 6, N, 5), torch.eye(N)[None].repeat(1, 2, 1)
    plan = policy.plan(seen, known, *generators(0), deterministic=False)
    assert plan.shape == (1, 6, N, 4, 5)
    assert torch.equal(plan[0, 1, 1, 0], seen[0, 1, 1])
    assert not torch.equal(plan[0, 1, 0, 0], seen[0, 1, 0])
    assert plan[:, :, :, 1:].abs().max() <= 5.0


def test_hold_sets_only_known_first_steps() -> None:
    x, seen = torch.zeros(1, 1, 2, 3, 1), torch.full((1, 1, 2, 1), 7.0)
    held = hold(x, seen, torch.tensor([[[1.0, 0.0]]]))
    assert held[0, 0, :, :, 0].tolist() == [[7.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_plans_have_no_candidates() -> None:
    with pytest.raises(UserError, match="expected 1 candidate"):
        make("madiff").policy(0, candidates=4)


def test_horizon_must_fit_the_levels() -> None:
    with pytest.raises(ValueError, match="expected horizon divisible by 2"):
        make("madiff", horizon=5)


ONE = EnvSpec("line", ("only",), (2,), 2, -1.0, 1.0, 4, "individual", {"version": "line-1"})


def walk(g: torch.Generator) -> Windows:
    """Four steps on a plane, o' = o + a / 2, where half of the data walks right and is paid, half left."""
    side = torch.where(torch.rand(64, 1, 1, generator=g) < 0.5, -0.6, 0.6)
    actions = side * torch.tensor([1.0, 0.0]) + 0.1 * torch.randn(64, 4, 2, generator=g)
    start = torch.randn(64, 1, 2, generator=g)
    obs = start + 0.5 * torch.cat([torch.zeros(64, 1, 2), actions[:, :3].cumsum(dim=1)], dim=1)
    rewards = side[:, :, 0].expand(-1, 4)
    fields: tuple[Tensor, ...] = (obs, actions, rewards, rewards.sum(dim=1))
    obs, actions, rewards, returns = (f[None] for f in fields)
    ones = torch.ones(1, 64, 4)
    agent = (obs.unsqueeze(3), actions.unsqueeze(3), rewards.unsqueeze(3))
    return Windows(*agent, 0 * ones, ones, returns.unsqueeze(2), torch.zeros(1, 64, dtype=torch.long))


def test_it_plans_the_walk_that_pays() -> None:
    """Cloning would go either way; asked for a high return it goes right, for a low one left."""
    config = madiff.Config(horizon=4, dim=16, n_steps=10, inverse_widths=(32,), lr=3e-3)
    algorithm = MADiff(config, ONE, Members(ONE, 1, CPU, generators(0)))
    (g,) = generators(1)
    for _ in range(250):
        algorithm.update(walk(g))
    policy, obs = algorithm.policy(0), torch.randn(200, 1, 2, generator=g)
    right = policy.act(obs, g)[:, 0, 0]
    policy.config = dataclasses.replace(config, target=0.0)
    left = policy.act(obs, g)[:, 0, 0]
    assert (right > 0.2).float().mean() > 0.9
    assert (left < -0.2).float().mean() > 0.9
