"""What holds for every algorithm: a stack is as many single runs, and a run continues where it stopped."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CPU, SMALL, SPEC, generators, minibatch, tag_random

from dom2 import algorithms, config, fit, presets, run
from dom2.algorithms import Algorithm
from dom2data import dataset, envs
from dom2data.errors import UserError

NAMES = sorted(algorithms.ALGORITHMS)
UPDATES = 6  # enough for a delayed actor to move


def make(name: str, seeds: int = 1, first: int = 0, **settings: Any) -> Algorithm:
    kind = algorithms.load(name)
    config = kind.config_type(**SMALL[name] | settings)
    return algorithms.create(kind, config, SPEC, seeds, CPU, generators(*range(first, first + seeds)))


def train(algorithm: Algorithm, seeds: range, updates: range = range(UPDATES)) -> None:
    for u in updates:
        algorithm.update(minibatch(algorithm, seeds, u))


@pytest.mark.parametrize("name", NAMES)
def test_three_seeds_equal_three_single_runs(name: str) -> None:
    """Bit for bit: weights and noise of a seed come from its own generator, whatever is stacked beside it."""
    together = make(name, seeds=3)
    start = {k: v.clone() for k, v in together.members.weights().items()}
    train(together, range(3))
    weights = together.members.weights()
    assert any(not torch.equal(weights[k], v) for k, v in start.items())
    for seed in range(3):
        alone = make(name, first=seed)
        train(alone, range(seed, seed + 1))
        for key, value in alone.members.weights().items():
            share = weights[key].chunk(3)[seed]
            if name == "madiff":  # on some processors MKL multiplies one small matrix unlike one of several
                torch.testing.assert_close(share, value, rtol=1e-3, atol=1e-4)
            else:
                assert torch.equal(share, value), key


@pytest.mark.parametrize("name", [n for n in NAMES if algorithms.load(n).batches == "independent"])
def test_a_member_does_not_feel_the_others(name: str) -> None:
    """Enormous rewards of the last agent change nothing of the others, not even by gradient clipping."""
    calm, wild = make(name), make(name)
    scale = torch.tensor([1.0, 1.0, 1e6])[:, None]
    for u in range(UPDATES):
        b = minibatch(calm, range(1), u)
        calm.update(b)
        wild.update(dataclasses.replace(b, rewards=b.rewards * scale))
    found = wild.members.weights()
    for key, value in calm.members.weights().items():
        others = len(value) // 3 * 2
        assert torch.equal(value[:others], found[key][:others]), key
    felt = [not torch.equal(value, found[key]) for key, value in calm.members.weights().items()]
    assert any(felt) == (name != "bc")  # which has no use for rewards


@pytest.mark.parametrize("name", NAMES)
def test_no_setting_of_it_has_the_name_of_a_runs(name: str) -> None:
    """Both are flags of one command."""
    own = {field.name for field in config.fields(algorithms.load(name).config_type)}
    assert own & {field.name for field in config.fields(run.Settings)} == set()


@pytest.mark.parametrize("name", NAMES)
def test_state_continues_bit_for_bit(name: str) -> None:
    first, second = make(name, seeds=2), make(name, seeds=2, first=5)
    train(first, range(2), range(3))
    second.members.load_weights(first.members.weights())
    second.members.load_state_dict(copy.deepcopy(first.members.state_dict()))
    train(first, range(2), range(3, UPDATES))
    train(second, range(2), range(3, UPDATES))
    found = second.members.weights()
    assert all(torch.equal(value, found[key]) for key, value in first.members.weights().items())
    assert second.members.updates == UPDATES


@pytest.mark.parametrize("name", NAMES)
def test_policy_is_that_seeds_and_a_snapshot(name: str) -> None:
    stacked, alone = make(name, seeds=3), make(name, first=2)
    policy, obs = stacked.policy(2), torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    actions = policy.act(obs, *generators(7))
    assert actions.shape == (4, 3, 2)
    assert actions.abs().max() <= 1.0
    assert torch.equal(alone.policy(0).act(obs, *generators(7)), actions)
    train(stacked, range(3))
    assert torch.equal(policy.act(obs, *generators(7)), actions)
    assert not torch.equal(stacked.policy(2).act(obs, *generators(7)), actions)


@pytest.mark.parametrize("name", NAMES)
def test_fit_runs_it_from_a_dataset(name: str, tmp_path: Path) -> None:
    """Through the command's loop: task presets, its kind of minibatch, metrics of each seed."""
    data = dataset.open(tag_random())
    config = fit.configure(name, "compact", data.env, data.quality, SMALL[name])
    settings = run.Settings(algorithm=name, updates=UPDATES, batch_size=8, seeds=2, log_every=UPDATES)
    document = run.describe(settings, config, data, [])
    assert document["settings"]["augment"] == algorithms.load(name).augment
    last: dict[str, Any] = {}
    begun = run.create(tmp_path / "run", document)
    assert fit.fit(begun, lambda _, metrics: last.update(metrics or {})) == "complete"
    losses = {key: value for key, value in last.items() if key.startswith("train/")}
    assert losses
    assert all(len(value) == 2 for value in losses.values())


def test_a_task_leaves_each_algorithm_its_own_number_of_steps() -> None:
    for name, preset in (("madiff", "wide"), ("ma-sfbc", "wide"), ("ma-diffusion-ql", "compact")):
        kind = algorithms.load(name)
        own = kind.config_type(**kind.presets[preset])
        assert fit.configure(name, preset, "halfcheetah", "medium", {}) == dataclasses.replace(
            own, gamma=0.99
        )


def test_a_variant_has_the_presets_of_its_task() -> None:
    assert presets.defaults("dom2", "tag-lab.py:make", "expert") == {}
    for variant in envs.VARIANTS:
        task = next(name for name in envs.NAMES if variant.startswith(name))
        for name in ("dom2", "ma-cql", "omar"):
            assert presets.defaults(name, variant, "expert") == presets.defaults(name, task, "expert")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["compact", "wide"])
def test_presets_are_settings(name: str, preset: str) -> None:
    kind = algorithms.load(name)
    kind.config_type(**kind.presets[preset])


@pytest.mark.parametrize("name", NAMES)
def test_impossible_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected .*lr"):
        make(name, lr=-1.0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {"alpha": -1.0}) for name in ("ma-td3+bc", "ma-cql", "omar", "cfcql", "ma-sfbc")),
        *(("dom2", {name: -1}) for name in ("eta", "zeta", "bc_weight", "eta_warmup")),
        ("ma-diffusion-ql", {"eta": -1.0}),
        ("ma-iql", {"beta": math.nan}),
        ("omar", {"elites": 5, "samples": 1}),
        ("omar", {"search_std": -1.0}),
        ("madiff", {"guidance": -1.0}),
        ("madiff", {"dim": 10}),
        ("madiff", {"stride": 2, "n_steps": 4}),
        ("ma-sfbc", {"gamma": 0.1, "horizon": 10}),
    ],
)
def test_settings_that_would_turn_an_objective_round_or_do_nothing_are_refused(
    name: str, settings: dict
) -> None:
    with pytest.raises(ValueError, match=f"expected .*{next(iter(settings))}"):
        make(name, **settings)


@pytest.mark.parametrize("name", ["bc", "ma-td3+bc"])
def test_deterministic_policies_have_nothing_to_choose_from(name: str) -> None:
    with pytest.raises(UserError, match="expected 1 candidate"):
        make(name).policy(0, candidates=4)
