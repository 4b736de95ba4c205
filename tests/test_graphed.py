"""A recorded update is the update: shown on the CPU, where a trace of its tensor operations is the recording.

Such a trace holds what a CUDA graph holds: operations on memory, with every number of the host as it was when
it was recorded. It cannot be made of an update that reads a value back to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_algorithms import NAMES, make
from tiny import minibatch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import adam

from dom2 import fit
from dom2.algorithms import Algorithm
from dom2.graphed import WARM_UP, Graphed
from dom2data.errors import UserError

SETTINGS: dict[str, dict[str, Any]] = {
    "ma-sfbc": {"behaviour_updates": 4, "critic_updates": 8},
    "dom2": {"eta_warmup": 3, "n_steps": 2},
    "ma-diffusion-ql": {"n_steps": 2},
}
UPDATES = {"ma-sfbc": 16, "ma-td3+bc": 16}
"""for several of each phase; 9 for those of one, one more than MADiff needs"""


@pytest.fixture(autouse=True)
def counts_in_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam as on a GPU, its count of steps a tensor, which it otherwise refuses to do on a CPU."""
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda **_: ["cpu"])


def made(name: str, **settings: Any) -> Algorithm:
    algorithm = make(name, seeds=2, **SETTINGS.get(name, {}) | settings)
    for optimiser in algorithm.members.optimisers.values():
        for group in optimiser.param_groups:
            group["capturable"] = True
    return algorithm


def traced(algorithm: Algorithm) -> Callable[..., tuple[Callable[[], None], dict[str, Tensor]]]:
    """A recorder like ``cuda_graph``: what tracing does to the state is undone, in place."""

    def record(update: Any, generators: list[torch.Generator]) -> Any:
        members, metrics = algorithm.members, {}
        places = [*members.networks.state_dict().values(), *_steps(algorithm)]
        values, drawn = [place.clone() for place in places], [g.get_state() for g in generators]
        try:
            program = make_fx(update)()
        except NotImplementedError as error:  # PyTorch 2.6 for one
            if "torch._C.Generator" not in str(error):
                raise
            pytest.skip("this PyTorch traces no generators")
        with torch.no_grad():
            for place, value in zip(places, values, strict=True):
                place.copy_(value)
        for generator, state in zip(generators, drawn, strict=True):
            generator.set_state(state)

        def repeat() -> None:
            with torch.no_grad():
                metrics.update(program())

        return repeat, metrics

    return record


def _steps(algorithm: Algorithm) -> list[Tensor]:
    optimisers = algorithm.members.optimisers.values()
    return [value for o in optimisers for state in o.state.values() for value in state.values()]


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_update_is_the_update(name: str) -> None:
    recorded, plain = made(name), made(name)
    graphed, repeated, updates = Graphed(recorded, traced(recorded)), 0, UPDATES.get(name, 9)
    for u in range(updates):
        batch = minibatch(plain, range(2), u)
        expected, found = plain.update(batch), graphed.update(batch)
        assert found.keys() == expected.keys()
        for metric, value in expected.items():
            assert torch.equal(found[metric], value), (u, metric)
        repeated += len(graphed._recorded) > 0
    weights = plain.members.weights()
    for key, value in recorded.members.weights().items():
        assert torch.equal(value, weights[key]), key
    assert recorded.members.updates == updates
    assert repeated >= 4
    if name == "ma-td3+bc":  # which moves the actors, too, at every second update
        assert set(graphed._recorded) == {False, True}
    state, other = recorded.members.state_dict(), plain.members.state_dict()
    assert all(map(torch.equal, state["generators"], other["generators"]))


def test_what_says_nothing_of_its_phase_is_not_recorded() -> None:
    algorithm, calls = made("bc"), []

    class Own:
        members = algorithm.members

        def update(self, batch: Any) -> dict[str, Tensor]:
            calls.append(batch)
            return algorithm.update(batch)

    graphed = Graphed(Own(), lambda *_: pytest.fail("recorded"))  # type: ignore[arg-type]
    for u in range(WARM_UP + 2):
        graphed.update(minibatch(algorithm, range(2), u))
    assert len(calls) == WARM_UP + 2


def test_a_recording_that_reads_a_value_back_is_none() -> None:
    """The recorder of these tests is as strict as a GPU's."""
    algorithm = made("bc")
    plain = algorithm.update

    def reads(batch: Any) -> dict[str, Tensor]:
        found = plain(batch)
        return found if next(iter(found.values())).sum() > -1e9 else {}

    algorithm.update = reads  # type: ignore[method-assign]
    graphed = Graphed(algorithm, traced(algorithm))
    for u in range(WARM_UP):
        graphed.update(minibatch(algorithm, range(2), u))
    with pytest.raises(RuntimeError, match="value out of a tracing tensor"):
        graphed.update(minibatch(algorithm, range(2), WARM_UP))


def test_the_setting_needs_a_gpu(tmp_path: Any) -> None:
    from tiny import new_run

    run = new_run(tmp_path / "run", updates=2, batch_size=4, graph=True, device="cpu")
    with pytest.raises(UserError, match="expected a CUDA device with --graph true, found cpu"):
        fit.fit(run)
