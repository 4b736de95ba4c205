"""Find problems of a PettingZoo environment before generating data in it.

Each check reports findings as ``expected ..., found ...; what to do``. ``check`` stops after the static
checks if they find something, because then no episode can be played.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from dom2data import envs, named
from dom2data.envs import foreign
from dom2data.envs.foreign import rescaled
from dom2data.errors import told, users_line
from dom2data.spec import EnvSpec

_API_CYCLES = 100


def check(name: str, episodes: int = 5, seed: int = 0) -> tuple[dict[str, Any], list[str]]:
    """Return facts about an environment, and a line for each kind of problem.

    Raises UserError if the name cannot be imported (see ``foreign.load``) or its file was edited since its
    import, and ValueError for an unknown name.
    """
    named.remember(name)
    spec: EnvSpec | None = None
    if envs.is_foreign(name):
        foreign.require_unedited(name)
    else:
        spec = envs.spec(name)
    with _opened(name) as env:
        findings = [] if spec else list(foreign.problems(env))
        if findings:
            return {"environment": name}, findings
        spec = spec or foreign.spec(name, env)
        findings += api(name)
        trial = Trial(env, spec, seed)
        for _ in range(episodes):
            trial.play()
            if trial.broken:
                break
    findings += trial.findings
    if not trial.broken:
        findings += determinism(name, spec, seed)
    sizes = sorted(set(spec.obs_dims))
    return {
        "environment": name,
        "datasets": f"{spec.env_id}-<quality>",
        "agents": f"{spec.n_agents}: {', '.join(spec.agent_names)}",
        "observation": " or ".join(map(str, sizes)),
        "action": spec.act_dim,
        "horizon": spec.horizon,
        "reward": spec.reward,
        "lengths": f"{min(trial.lengths, default=0)} to {max(trial.lengths, default=0)} steps",
        "speed": f"{trial.speed:,.0f} steps/s",
    }, findings


def _opened(name: str) -> contextlib.AbstractContextManager[ParallelEnv]:
    if envs.is_foreign(name):
        return foreign.opened(name)
    from dom2data.envs.parallel import ParallelView

    return contextlib.closing(ParallelView(name))


def api(name: str) -> Iterator[str]:
    """Run PettingZoo's own test of the interface."""
    from pettingzoo.test import parallel_api_test

    try:
        with _opened(name) as env, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            for i, agent in enumerate(env.possible_agents):
                env.action_space(agent).seed(i)
            warnings.simplefilter("ignore")
            parallel_api_test(env, num_cycles=_API_CYCLES)
    except Exception as error:
        where = f" at {_line(error)}" if not str(error) else ""
        yield f"expected pettingzoo.test.parallel_api_test to pass, found {told(error)}{where}; run it alone"


def _line(error: BaseException) -> str:
    """Return the source line that raised, for assertions without a message."""
    return f"`{traceback.extract_tb(error.__traceback__)[-1].line}`"


class Trial:
    """Episodes of uniform actions in one environment; ``findings`` has the first finding of each kind."""

    def __init__(self, env: ParallelEnv, spec: EnvSpec, seed: int):
        self.env, self.spec, self.seed = env, spec, seed
        self.rng = np.random.default_rng(seed)
        self.lengths: list[int] = []
        self.broken = False
        self._found: dict[str, str] = {}
        self._seconds = 0.0

    @property
    def findings(self) -> list[str]:
        return list(self._found.values())

    @property
    def speed(self) -> float:
        """Environment steps per second, resets included."""
        return sum(self.lengths) / self._seconds if self._seconds else 0.0

    def play(self) -> None:
        """Play one episode, started by ``reset(seed=...)``."""
        number, t, began = len(self.lengths), 0, time.perf_counter()
        try:
            observations, infos = self.env.reset(seed=self.seed + number)
            self._agents(observations, infos)
            self._observations(observations)
            while self.env.agents and t < self.spec.horizon:
                t += 1
                self._step()
        except Exception as error:
            self.broken = True
            module = sys.modules.get(type(self.env.unwrapped).__module__)
            where = users_line(error, getattr(module, "__file__", None))
            at = f"step {t} ({where[0]})" if where else f"step {t}"
            self._note("raise", f"expected an episode to end, found {told(error)} at {at}")
        self._seconds += time.perf_counter() - began
        self.lengths.append(t)
        if self.env.agents and not self.broken:
            declared = f"{self.spec.horizon} steps, found {len(self.env.agents)} agents going on"
            self._note(
                "horizon", f"expected the end of an episode within {declared}; it would be truncated there"
            )

    def _step(self) -> None:
        present = list(self.env.agents)
        actions = {agent: self._action(agent) for agent in present}
        copies = {agent: action.copy() for agent, action in actions.items()}
        results = self.env.step(actions)
        if any((actions[agent] != copies[agent]).any() for agent in present):
            self._note(
                "action", "expected actions to be left alone, found them modified by step; copy them there"
            )
        if not (isinstance(results, tuple) and len(results) == 5):
            raise TypeError(f"step returned {type(results).__name__}, not five dictionaries")
        names = ("observations", "rewards", "terminations", "truncations", "infos")
        for name, result in zip(names, results, strict=True):
            if missing := set(present) - set(result):
                self._note(
                    name, f"expected {name} of every agent present, found none of {sorted(missing)[0]}"
                )
        observations, rewards, terminated, truncated, _ = results
        self._observations(observations)
        self._rewards(rewards, present)
        if ghosts := [a for a in self.env.agents if terminated.get(a) or truncated.get(a)]:
            self._note("gone", f"expected {ghosts[0]} to leave env.agents when it ends, found it there")
        if lost := [a for a in present if a not in self.env.agents and not (terminated[a] or truncated[a])]:
            self._note("lost", f"expected {lost[0]} to end by termination or truncation, found it gone")

    def _action(self, agent: Any) -> NDArray[Any]:
        space = self.env.action_space(agent)
        assert isinstance(space, Box)
        return rescaled(self.rng.uniform(-1.0, 1.0, space.shape).astype(np.float32), space)

    def _agents(self, observations: dict[Any, Any], infos: dict[Any, Any]) -> None:
        everyone = set(self.env.possible_agents)
        for what, found in (
            ("env.agents", self.env.agents),
            ("observations", observations),
            ("infos", infos),
        ):
            if not everyone <= set(found):
                absent = sorted(map(str, everyone - set(found)))[0]
                self._note(what, f"expected every agent in {what} after reset, found none of {absent}; "
                           "all must be there from the start")  # fmt: skip

    def _observations(self, observations: dict[Any, Any]) -> None:
        for agent, values in observations.items():
            space = self.env.observation_space(agent)
            array = np.asarray(values)
            if array.shape != space.shape or array.dtype != space.dtype:
                declared, found = f"{space.dtype}{space.shape}", f"{array.dtype}{array.shape}"
                self._note("shape", f"{agent}: expected observations of {declared}, found {found}; "
                           "make space and array agree")  # fmt: skip
            elif not np.isfinite(array).all():
                self._note(
                    "finite", f"{agent}: expected finite observations, found {array.flat[_odd(array)]}"
                )
            elif not space.contains(array):
                self._note("inside", f"{agent}: expected observations in {space}, found "
                           f"{array.min():g} to {array.max():g}; widen the space or clip")  # fmt: skip

    def _rewards(self, rewards: dict[Any, Any], present: list[Any]) -> None:
        for agent, reward in rewards.items():
            if not (np.isscalar(reward) or np.ndim(reward) == 0) or not np.isfinite(float(reward)):
                self._note("reward", f"{agent}: expected a finite number as reward, found {reward}")
        if self.spec.reward == "shared" and len({float(rewards[a]) for a in present if a in rewards}) > 1:
            self._note(
                "shared", f"expected one reward for all (shared_reward is set), found {rewards}; unset it"
            )

    def _note(self, kind: str, line: str) -> None:
        self._found.setdefault(kind, line)


def _odd(array: NDArray[Any]) -> int:
    return int(np.argmin(np.isfinite(array)))


def determinism(name: str, spec: EnvSpec, seed: int) -> Iterator[str]:
    """Check that equal seeds and actions give equal observations, rewards and ends in two new instances, then
    in a used and a new one, and that another seed gives another start.
    """
    hint = "draw everything from a generator that reset(seed) makes"
    rounds = (
        ("equal episodes for equal seeds", hint),
        ("a second episode as a new instance plays it", "let reset(seed) set everything anew"),
    )
    with _opened(name) as played:
        one = Recorded(played, spec)
        for episode, (expected, remedy) in enumerate(rounds):
            with _opened(name) as new:
                at = one.differs(Recorded(new, spec), seed + episode)
            if at is not None:
                yield f"expected {expected}, found a difference at step {at}; {remedy}"
                return
        if one.same_start(seed, seed + 1):
            yield f"expected other starts for other seeds, found the same for {seed} and {seed + 1}; {hint}"


class Recorded:
    """An instance that plays the same actions for the same seed."""

    def __init__(self, env: ParallelEnv, spec: EnvSpec):
        self.env, self.spec = env, spec
        self.spaces = [self.env.action_space(agent) for agent in self.env.possible_agents]

    def differs(self, other: Recorded, seed: int) -> int | None:
        """Return the first step at which two instances differ or only one continues; None if they agree."""
        for t, (mine, its) in enumerate(zip_longest(self.episode(seed), other.episode(seed))):
            if mine is None or its is None or not _equal(mine, its):
                return t
        return None

    def same_start(self, seed: int, another: int) -> bool:
        return _equal(next(self.episode(seed)), next(self.episode(another)))

    def episode(self, seed: int) -> Iterator[tuple[dict[Any, Any], ...]]:
        """Yield the observations of the reset, then observations, rewards and both kinds of ends per step."""
        rng = np.random.default_rng(seed)
        observations, _ = self.env.reset(seed=seed)
        yield (_copied(observations),)
        for _ in range(self.spec.horizon):
            if not self.env.agents:
                return
            joint = rng.uniform(-1.0, 1.0, (self.spec.n_agents, self.spec.act_dim)).astype(np.float32)
            everyone = zip(self.env.possible_agents, joint, self.spaces, strict=True)
            actions = {a: rescaled(u, s) for a, u, s in everyone if a in self.env.agents}
            *results, _ = self.env.step(actions)
            yield tuple(map(_copied, results))


def _copied(values: dict[Any, Any]) -> dict[Any, Any]:
    return {agent: np.array(value) for agent, value in values.items()}


def _equal(one: tuple[dict[Any, Any], ...], other: tuple[dict[Any, Any], ...]) -> bool:
    """Compare results; NaN equals NaN, because NaNs are reported by another check."""
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[k], b[k], a[k].dtype.kind == "f") for k in a)
        for a, b in zip(one, other, strict=True)
    )
