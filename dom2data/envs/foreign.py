"""A user's own PettingZoo environment, named ``my_module:make`` or ``path/to/file.py:make``.

The name refers to a callable without arguments that returns a ``pettingzoo.ParallelEnv``. What the rest of
the project needs is read from that (docs/your-environment.md):

* agents: ``possible_agents``, all of them present after ``reset``. An agent that leaves before the others
  then observes zeros and earns nothing, and its actions have no effect.
* observations: Boxes of floats, flattened; shorter ones are padded with zeros to the widest.
* actions: Boxes of floats of one size with finite bounds, mapped from [-1, 1].
* ``horizon``, or ``max_cycles``: the longest episode in steps; longer ones are truncated there.
* ``shared_reward`` (optional): all present agents always get the same reward. It is the team's, so agents
  that have left get it, too.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from pettingzoo import AECEnv, ParallelEnv

from dom2data.errors import FAILED, UserError, told, users_line
from dom2data.spec import Bool, EnvSpec, Float32, Step

_VERSION = "foreign-1"
_HINTS = {
    "observation": "encode what is observed as one vector in a wrapper",
    "action": "ask the environment for continuous actions, or map them in a wrapper",
}


def load(name: str) -> tuple[ModuleType, Callable[[], Any]]:
    """Return the module and the callable that ``name`` refers to; also searches the current folder.

    Raises UserError when the module or file does not exist, its import fails, or it has no such callable.
    """
    source, _, attribute = name.rpartition(":")
    try:
        if source.endswith(".py"):
            module = _module_of(Path(source).resolve())
        else:
            if os.getcwd() not in sys.path:
                sys.path.append(os.getcwd())
            importlib.invalidate_caches()
            module = importlib.import_module(source)
        _imported(module)
    except (Exception, SystemExit) as error:  # a script calls sys.exit
        raise UserError(
            f"expected a module or file {source!r} that can be imported, found {told(error)}; "
            "name it module:make (run from its folder) or path/to/file.py:make"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        what = "none" if found is None else f"{type(found).__name__} {attribute}"
        raise UserError(f"expected a callable {attribute!r} in {module.__file__}, found {what}")
    return module, found


@cache
def _module_of(path: Path) -> ModuleType:
    name = f"dom2_env_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _digest(module: ModuleType) -> str:
    """Return 16 hexadecimal digits of the hash of a module's file; empty without a file."""
    file = Path(getattr(module, "__file__", None) or "")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""


_imported = cache(_digest)
"""Digest of the file as imported: its code runs until Python ends, even if the file changes."""


def require_unedited(name: str) -> None:
    """Raises UserError if the file that ``name`` refers to has changed since it was imported."""
    module, _ = load(name)
    if _digest(module) != _imported(module):
        raise UserError(
            f"expected {module.__file__} as it was imported, found it edited since; restart Python, which "
            "runs the old code until then"
        )


def build(name: str) -> ParallelEnv:
    """Make one environment. Raises UserError like ``load``, and if the callable returns no ParallelEnv."""
    _, make = load(name)
    try:
        env = make()
    except Exception as error:
        raise UserError(
            f"expected {name}() to return an environment, found {told(error)}; no argument is given"
        ) from error
    if not isinstance(env, ParallelEnv):
        hint = "; pettingzoo.utils.aec_to_parallel converts it" if isinstance(env, AECEnv) else ""
        raise UserError(f"expected {name}() to return a pettingzoo.ParallelEnv, found {type(env)}{hint}")
    return env


@contextmanager
def opened(name: str) -> Iterator[ParallelEnv]:
    """Yield an environment of ``build`` and close it at the end. Raises UserError also if closing fails."""
    env = build(name)
    try:
        yield env
    finally:
        try:
            env.close()
        except Exception as error:
            raise UserError(f"expected {name} to close, found {told(error)}; mend close()", FAILED) from error


def problems(env: ParallelEnv) -> Iterator[str]:
    """Yield a line for each problem in an environment's declarations that prevents its use."""
    agents = list(getattr(env, "possible_agents", None) or ())
    if not agents:
        yield "expected possible_agents, found none; list every agent there"
        return
    spaces = [(agent, kind, space(agent)) for agent in agents for kind, space in (
        ("observation", env.observation_space), ("action", env.action_space))]  # fmt: skip
    boxes = True
    for agent, kind, space in spaces:
        if not (isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)):
            boxes = False
            yield f"{agent}: expected a Box of floats as {kind} space, found {space}; {_HINTS[kind]}"
        elif kind == "action" and not space.is_bounded():
            yield f"{agent}: expected finite action bounds, found {space}; bound it in a wrapper"
    sizes = sorted({_size(space) for _, kind, space in spaces if kind == "action"}) if boxes else []
    if len(sizes) > 1:
        yield f"expected action spaces of one size, found sizes {sizes}; pad them in a wrapper"
    horizon = _declared(env, "horizon", "max_cycles")
    if not isinstance(horizon, int | np.integer) or horizon < 1:
        found = "none" if horizon is None else repr(horizon)
        yield f"expected the longest episode in steps, found {found}; set env.horizon before returning it"


def spec(name: str, env: ParallelEnv | None = None) -> EnvSpec:
    """Return the spec of an environment (of ``env``, if already built).

    Raises UserError with the first of its ``problems`` and, if ``env`` is None, like ``require_unedited``:
    environments already running continue with the code they started with.
    """
    if env is None:
        require_unedited(name)
        with opened(name) as env:
            return spec(name, env)
    for problem in problems(env):
        raise UserError(f"{name}: {problem} (`dom2data check-env {name}` tells all)")
    module, make = load(name)
    title = str((getattr(env, "metadata", None) or {}).get("name") or getattr(make, "__name__", "env"))
    agents, source = list(env.possible_agents), Path(module.__file__ or "")
    horizon = int(_declared(env, "horizon", "max_cycles"))
    return EnvSpec(
        env_id=re.sub(r"[^\w-]+", "-", title, flags=re.ASCII).strip("-") or "env",
        agent_names=tuple(map(str, agents)),
        obs_dims=tuple(_size(env.observation_space(agent)) for agent in agents),
        act_dim=_size(env.action_space(agents[0])),
        act_low=-1.0,
        act_high=1.0,
        horizon=horizon,
        reward="shared" if _declared(env, "shared_reward") else "individual",
        facts={
            "name": title,
            "make": f"{source.stem}:{name.rpartition(':')[2]}",
            "source": _imported(module),
            "observations": "; ".join(str(env.observation_space(agent)) for agent in agents),
            "actions": "; ".join(str(env.action_space(agent)) for agent in agents) + ", mapped from [-1, 1]",
            "horizon": horizon,
            "pettingzoo": version("pettingzoo"),
            "version": _VERSION,
        },
    )


class ForeignEnv:
    """E separate environments of one name (``dom2data.spec.VectorEnv``).

    Every episode starts with ``reset(seed=...)``, and only on request: a row's first episode is that of a new
    instance. After its episode, a row keeps its last observation and its flags, with rewards of zero, until
    it is reset. Raises UserError (code 1), naming seed and step, when an environment raises, or returns
    numbers that are not finite.
    """

    def __init__(self, name: str, num_envs: int = 1, seed: Any = 0):
        with ExitStack() as stack:
            self._envs = [stack.enter_context(opened(name)) for _ in range(num_envs)]
            self.name, self.num_envs, self.spec = name, num_envs, spec(name, self._envs[0])
            self._opened = stack.pop_all()
        self._agents = list(self._envs[0].possible_agents)
        self._spaces = [self._envs[0].action_space(agent) for agent in self._agents]
        self._obs = np.zeros((num_envs, self.spec.n_agents, self.spec.obs_dim), np.float32)
        self._time = np.zeros(num_envs, np.int64)
        self._seeds = np.zeros(num_envs, np.int64)
        self._terminated, self._truncated = np.zeros(num_envs, bool), np.ones(num_envs, bool)
        self._rng = np.random.default_rng(seed)

    def reset(self, seed: Any = None, mask: Bool | None = None) -> Float32:
        """Start new episodes in the rows of ``mask`` [E] (default: all); return obs [E, N, O]."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        for row in range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist():
            self._seeds[row], self._time[row] = self._rng.integers(2**31), 0
            self._terminated[row] = self._truncated[row] = False
            env = self._envs[row]
            observations, _ = self._call(row, partial(env.reset, seed=int(self._seeds[row])), 2)
            if set(env.agents) != set(self._agents):
                raise self._failure(row, "all possible_agents after reset", f"{env.agents}")
            self._see(row, observations, env.agents)
        return self.observe()

    def step(self, actions: Float32) -> Step:
        """Advance unfinished rows by actions [E, N, A] in [-1, 1]; the array is not modified."""
        rewards = np.zeros((self.num_envs, self.spec.n_agents), np.float32)
        for row in np.flatnonzero(~(self._terminated | self._truncated)).tolist():
            rewards[row] = self._step(row, actions[row])
        return Step(self.observe(), rewards, self._terminated.copy(), self._truncated.copy())

    def observe(self) -> Float32:
        """Return a copy of the current observations [E, N, O]."""
        return self._obs.copy()

    def close(self) -> None:
        """Close all environments. Raises UserError (code 1) if one fails to close."""
        self._opened.close()

    def _step(self, row: int, actions: Float32) -> Float32:
        env = self._envs[row]
        present = list(env.agents)
        chosen = {
            agent: rescaled(action, space)
            for agent, action, space in zip(self._agents, actions, self._spaces, strict=True)
            if agent in present
        }
        observations, earned, terminated, truncated, _ = self._call(row, partial(env.step, chosen), 5)
        self._time[row] += 1
        self._see(row, observations, [*present, *env.agents])
        going_on = [a for a in present if not (terminated.get(a) or truncated.get(a))]
        if going_on and not env.agents:
            raise self._failure(row, f"{going_on[0]} to end by termination or truncation", "it gone")
        if not going_on:
            self._terminated[row] = all(terminated.get(a) for a in present)
            self._truncated[row] = any(truncated.get(a) for a in present)
        elif self._time[row] >= self.spec.horizon:
            self._truncated[row] = True
        rewards = _floats([earned.get(agent, 0.0) for agent in self._agents])
        if rewards.shape != (self.spec.n_agents,) or not np.isfinite(rewards).all():
            raise self._failure(row, "finite rewards, a number each", f"{earned}")
        if self.spec.reward == "shared":
            shared = rewards[[agent in present for agent in self._agents]]
            if np.ptp(shared):
                raise self._failure(row, "one reward for all (shared_reward)", f"{earned}")
            rewards[:] = shared[0]
        return rewards

    def _see(self, row: int, observations: dict[Any, Any], present: list[Any]) -> None:
        self._obs[row] = 0.0
        for i, (agent, width) in enumerate(zip(self._agents, self.spec.obs_dims, strict=True)):
            if agent in observations:
                values = _floats(observations[agent]).reshape(-1)
                if values.shape != (width,) or not np.isfinite(values).all():
                    raise self._failure(row, f"{width} finite numbers observed by {agent}", f"{values}")
                self._obs[row, i, :width] = values
            elif agent in present:  # also at its end, because critics bootstrap from the last observation
                when = "who is present" if agent in self._envs[row].agents else "also at its end"
                raise self._failure(row, f"what {agent} observes, {when}", "nothing")

    def _call(self, row: int, function: Callable[[], Any], parts: int) -> tuple[Any, ...]:
        """Call reset or step and return the result, which must have this number of parts."""
        try:
            found = function()
        except Exception as error:
            where = users_line(error, load(self.name)[0].__file__)
            at = f" ({where[0]})" if where else ""
            raise self._failure(row, "an environment that goes on", told(error) + at) from error
        if not isinstance(found, tuple | list) or len(found) != parts:
            what = "observations and infos from reset" if parts == 2 else "five dictionaries from step"
            found = len(found) if isinstance(found, tuple | list) else type(found).__name__
            raise self._failure(row, what, f"{found}")
        return tuple(found)

    def _failure(self, row: int, expected: str, found: str) -> UserError:
        where = f"seed {self._seeds[row]}, step {self._time[row]}"
        message = f"{self.name}, {where}: expected {expected}, found {' '.join(found.split())}"
        return UserError(f"{message}; `dom2data check-env {self.name}` says more", FAILED)


def rescaled(action: Float32, space: Box) -> NDArray[Any]:
    """Map an action from [-1, 1] to ``space``, as a new array; unchanged if the bounds are -1 and 1."""
    action = action.reshape(space.shape).astype(space.dtype)
    if (space.low == -1.0).all() and (space.high == 1.0).all():
        return action
    return np.clip(space.low + (action + 1) / 2 * (space.high - space.low), space.low, space.high)


def _declared(env: ParallelEnv, *names: str) -> Any:
    """Return the first of these attributes that the environment, or the innermost one, has."""
    found = [getattr(owner, name, None) for name in names for owner in (env, env.unwrapped)]
    return next((value for value in found if value is not None), None)


def _floats(values: Any) -> Float32:
    """Convert values to floats; a NaN if that fails, e.g. for rows of different lengths."""
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError):
        return np.full(1, np.nan, np.float32)


def _size(space: Any) -> int:
    return int(np.prod(space.shape))
