"""Networks that round alike on every processor: right to the last place, whatever computes them."""

from __future__ import annotations

import os
import subprocess
import sys

import numba.core.caching
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dom2_policies import frozen, portable, zoo
from dom2_policies.compiled import compiled
from dom2_policies.policy import Actor, Uniform, acting, load_actor


@pytest.mark.parametrize(
    "shape", [(2, 9, 16, 64), (1, 3, 5, 2), (3, 8, 7, 9), (2, 4, 64, 1), (1, 1, 1, 1), (2, 13, 20, 39)]
)
def test_a_product_is_one_sum_in_one_order(shape):
    m, b, k, n = shape
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=size).astype(np.float32) for size in ((m, b, k), (m, k, n), (m, 1, n)))
    expected = np.broadcast_to(bias, (m, b, n)).copy()
    for term in range(k):
        # A product of two floats is exact in a double, the sum of it and a float nearly always.
        step = x[:, :, term, None].astype(np.float64) * weight[:, None, term] + expected
        expected = step.astype(np.float32)
    found = portable.product(x, weight, bias)
    np.testing.assert_array_equal(portable.product(x, weight, bias, relu=True), np.maximum(found, 0))
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=0)
    assert (found == expected).mean() > 0.99
    for row in range(b):  # rows do not feel each other
        np.testing.assert_array_equal(
            portable.product(x[:, row : row + 1], weight, bias), found[:, row : row + 1]
        )


def test_tanh_is_right_to_the_last_place():
    x = np.concatenate((np.linspace(-25, 25, 200_001), np.geomspace(1e-6, 1, 1000), [0.0])).astype(np.float32)
    exact = np.tanh(x.astype(np.float64))
    np.testing.assert_array_max_ulp(portable.tanh(x), exact.astype(np.float32), 1)
    tiny = np.geomspace(1e-30, 1e-6, 1000).astype(np.float32)
    assert np.abs(portable.tanh(tiny) - tiny).max() < 1e-15
    assert portable.tanh(np.array([np.inf, -np.inf], np.float32)).tolist() == [1.0, -1.0]
    assert np.isnan(portable.tanh(np.array([np.nan], np.float32))[0])


def test_normal_numbers_are_normal_and_follow_from_the_seed():
    draws = portable.normal(0, (100_000, 2))
    assert np.abs(draws.mean(axis=0)).max() < 0.02
    assert np.abs(np.cov(draws.T) - np.eye(2)).max() < 0.02
    np.testing.assert_array_equal(portable.normal(1, (5,)), portable.normal(1, (5,)))
    assert not np.array_equal(portable.normal(1, (5,)), portable.normal(2, (5,)))


@pytest.mark.parametrize("seed", [0, 5489, 2**32 + 7, 2**63 - 1])
def test_draws_are_those_of_torch(seed):
    theirs, ours = torch.Generator().manual_seed(seed), frozen.Draws(seed)
    for shape in ((3,), (700, 5), (), (40, 3, 2)):
        np.testing.assert_array_equal(ours.uniform(shape), torch.rand(shape, generator=theirs).numpy())
        assert ours.seed() == int(torch.randint(2**63 - 1, (), generator=theirs))


@pytest.mark.parametrize("name", ["medium", "expert", None])
def test_with_torch_and_without_a_policy_acts_alike(name):
    obs = np.random.default_rng(0).normal(size=(50, 3, 16)).astype(np.float32)
    generator, draws = torch.Generator().manual_seed(3), frozen.Draws(3)
    if name is None:
        policy, act = Uniform(2, -0.5, 2.0), frozen.Uniform(2, -0.5, 2.0, draws)
    else:
        file = zoo.path("tag", name)
        policy, act = load_actor(file, noise=0.3), frozen.load(file, 0.3, draws)
        mean = acting(policy, generator, deterministic=True)(obs)
        np.testing.assert_array_equal(frozen.load(file)(obs), mean)
    for _ in range(3):
        np.testing.assert_array_equal(act(obs), acting(policy, generator)(obs))


def test_a_file_that_is_no_actor_is_refused(tmp_path):
    save_file({"x": np.zeros(2, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="without its header"):
        frozen.load(tmp_path / "other.safetensors")


def test_an_actor_acts_as_its_network_does():
    actor = Actor((6, 64, 32, 3), 2, [torch.Generator().manual_seed(0)])
    obs = torch.randn(50, 2, 6)
    with torch.no_grad():
        expected = actor(obs.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(actor.act(obs, torch.Generator()), expected, rtol=1e-5, atol=1e-6)
    alone = torch.cat([actor.act(row[None], torch.Generator()) for row in obs])
    assert torch.equal(alone, actor.act(obs, torch.Generator()))


OTHER_PROCESSORS = {
    "no AVX-512": {
        "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma", "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX",
    },
    "no AVX, no fused multiply-add": {
        "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4,-AVX,-AVX2_Usable,-FMA_Usable",
    },
}  # fmt: skip
"""What the libraries are told that this processor lacks, so that they compute as on another one."""

RECORDED = "eb1ffa923d420ce6034cfc80781d93e04a0613296678ad58df4818055fc22d46"

_DIGEST = """
import hashlib, numpy as np
from dom2_policies import td3, zoo
from dom2data import collect
digest = hashlib.sha256()
job = collect.Job("tag", (zoo.path("tag", "expert"), None), (40, 10), 0.1, 0, 0)
digest.update(b"".join(array.tobytes() for array in collect.collect_block(job).values()))
for joint in (False, True):
    config, rng = td3.Config(joint_critic=joint, hidden=16), np.random.default_rng(0)
    learner = td3.TD3(config, 2, 5, 2, seed=0)
    for _ in range(4):
        obs, next_obs = rng.random((2, 2, 24, 5), np.float32)
        actions, rewards = rng.random((2, 24, 2), np.float32), rng.random((2, 24), np.float32)
        learner.update(td3.Transitions(obs, actions, rewards, next_obs, np.float32(rewards > 0.9)))
    for network in (learner.actor, learner.target_critic):
        digest.update(b"".join(p.detach().numpy().tobytes() for p in network.parameters()))
print(digest.hexdigest())
"""


def begun(tmp_path, **environment: str) -> subprocess.Popen[str]:
    """Will print the digest of 50 episodes of tag and of four updates of each kind of learner."""
    return subprocess.Popen(
        [sys.executable, "-c", _DIGEST],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_processor_gives_the_same_bytes(tmp_path, capsys):
    """Also those recorded, on an Intel Xeon; change them only together with ``recipes.ARITHMETIC``."""
    others = {
        name: begun(tmp_path / name.replace(" ", "-"), **told) for name, told in OTHER_PROCESSORS.items()
    }
    exec(_DIGEST, {})
    found = {"this": capsys.readouterr().out.strip()}
    for name, other in others.items():
        found[name], errors = other.communicate()
        assert other.returncode == 0, errors
        found[name] = found[name].strip()
    assert found == dict.fromkeys(found, RECORDED)


def test_compiles_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba finds no place when the package and the home are another user's."""

    def double(x: int) -> int:
        return 2 * x

    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(double)
    assert compiled(nogil=True)(double)(21) == 42
