"""Standardised observations: the moments, where they go, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_datasets import in_memory
from test_algorithms import make
from tiny import CPU, SPEC, generators, minibatch, new_run

from dom2 import algorithms, evaluate, fit, run, standardised
from dom2.standardised import Standard, Standardised

MOMENTS = {
    "mean": [[float(10 * agent + o) for o in range(SPEC.obs_dim)] for agent in range(SPEC.n_agents)],
    "std": [[2.0 + agent] * SPEC.obs_dim for agent in range(SPEC.n_agents)],
}


def test_moments_are_those_of_all_rows_of_each_agent() -> None:
    dataset = in_memory([4, 2, 4, 1, 3, 4])
    found, rows = standardised.moments(dataset), dataset.array("observations").astype(np.float64)
    np.testing.assert_allclose(found["mean"], rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found["std"], rows.std(axis=0), rtol=1e-12, atol=1e-12)


def test_each_member_is_scaled_by_its_agents_moments() -> None:
    standard = Standard(MOMENTS, CPU)
    obs = torch.randn(4, SPEC.n_agents, SPEC.obs_dim)
    whole = standard.joint(obs)
    torch.testing.assert_close(whole[:, 1], (obs[:, 1] - torch.tensor(MOMENTS["mean"][1])) / 3.001)
    stacked = torch.stack([obs[:, agent] for _ in range(2) for agent in range(SPEC.n_agents)])  # of two seeds
    found = standard.members(stacked)
    assert found.shape == stacked.shape
    for member in range(2 * SPEC.n_agents):
        assert torch.equal(found[member], whole[:, member % SPEC.n_agents])


@pytest.mark.parametrize("name", sorted(algorithms.ALGORITHMS))
def test_it_is_the_algorithm_on_standardised_observations(name: str) -> None:
    plain, inner = (make(name, seeds=2) for _ in range(2))
    wrapped, standard = Standardised(inner, MOMENTS), Standard(MOMENTS, CPU)
    assert hasattr(wrapped, "phase") == hasattr(plain, "phase")
    for update in range(2):
        batch = minibatch(plain, range(2), update)
        scaled = {"obs": standard.joint if plain.batches == "windows" else standard.members}
        scaled |= {} if plain.batches == "windows" else {"next_obs": standard.members}
        values = vars(batch) | {field: scale(getattr(batch, field)) for field, scale in scaled.items()}
        plain.update(type(batch)(**values))
        wrapped.update(batch)
    for key, value in plain.members.weights().items():
        assert torch.equal(wrapped.members.weights()[key], value), key
    obs = torch.randn(4, SPEC.n_agents, SPEC.obs_dim)
    expected = plain.policy(1).act(standard.joint(obs), *generators(3))
    assert torch.equal(wrapped.policy(1).act(obs, *generators(3)), expected)


def test_halfcheetah_has_it_and_a_run_keeps_its_moments(tmp_path: Path) -> None:
    tasks = [
        ("dom2", "halfcheetah"),
        ("bc", "halfcheetah-mamujoco"),
        ("dom2", "tag"),
        ("madiff", "halfcheetah"),
    ]
    assert [standardised.default(*task) for task in tasks] == ["on", "on", "off", "off"]
    off, on = (new_run(tmp_path / word, standardise=word) for word in ("off", "on"))
    assert "observations" not in off.document
    assert [fit.fit(each) for each in (off, on)] == ["complete", "complete"]
    found = run.read(on.folder)
    assert np.shape(found.document["observations"]["mean"]) == (3, 16)
    assert isinstance(evaluate.trained(found), Standardised)
    assert not isinstance(evaluate.trained(run.read(off.folder)), Standardised)
    returns = [evaluate.evaluate(run.read(each.folder), 4)["per_seed"] for each in (off, on)]
    assert returns[0] != returns[1]


def test_a_run_that_is_older_than_the_setting_has_none(tmp_path: Path) -> None:
    document = new_run(tmp_path / "run").document
    del document["settings"]["standardise"]
    assert run.Run(tmp_path / "run", document).settings.standardise == "off"
