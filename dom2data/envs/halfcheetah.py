"""HalfCheetah controlled by two agents, one per leg (2x3), on MuJoCo, with many rows in a batch.

Model, reset and reward are those of gymnasium's HalfCheetah-v5, and a row follows it bit for bit. Therefore
the rows are a ``mujoco.batch.Batch`` rather than calls of ``mujoco.rollout``: a rollout accepts the solver's
warm start but does not return the final one, so stepping with single calls would drift from gymnasium by
1e-13 per step, and the system is chaotic. Action order and, by default, observations are those of the
published offline datasets.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from dom2data.errors import FAILED, UserError
from dom2data.spec import Bool, EnvSpec, Float32, Step

ObsStyle = Literal["omar", "mamujoco_v1"]
OBS_DIMS: dict[ObsStyle, int] = {"omar": 6, "mamujoco_v1": 12}

Float64 = NDArray[np.float64]

FRAME_SKIP = 5
RESET_NOISE = 0.1
CONTROL_COST = 0.1
HORIZON = 1000
NQ = 9
"""Number of positions, and of velocities: root x, z and angle, then back and front thigh, shin, foot."""
# The published code orders an agent's joints by name (foot, shin, thigh), but its actions by actuator.
_JOINTS = ((5, 4, 3), (8, 7, 6))
_NEIGHBOUR = (6, 3)  # the other agent's thigh, one joint away
_ROOT = (1, 2)  # without root x: the reward depends only on its velocity


@cache
def xml() -> Path:
    """Return the model file installed with gymnasium."""
    return Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"


_silence = threading.Lock()


@contextmanager
def silent() -> Iterator[None]:
    """Suppress MuJoCo's warning about a deprecated attribute in the model file."""
    with _silence:  # MuJoCo has a single handler for all threads
        handler = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda text: None)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(handler)


@cache
def standard_model() -> mujoco.MjModel:
    """Return the compiled model; shifts edit copies of it."""
    with silent():
        model = mujoco.MjModel.from_xml_path(str(xml()))
    # By default, MuJoCo silently resets a diverged state.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return model


def facts(obs_style: ObsStyle) -> dict[str, Any]:
    """Return the facts that the numbers depend on."""
    return {
        "model": hashlib.sha256(xml().read_bytes()).hexdigest()[:16],
        "mujoco": mujoco.__version__,
        "frame_skip": FRAME_SKIP,
        "reset_noise": RESET_NOISE,
        "control_cost": CONTROL_COST,
        "obs_style": obs_style,
        "version": "halfcheetah-1",
    }


def spec(env_id: str = "halfcheetah", obs_style: ObsStyle = "omar") -> EnvSpec:
    """Return the spec of the two-agent task."""
    return EnvSpec(
        env_id=env_id,
        agent_names=("back", "front"),
        obs_dims=(OBS_DIMS[obs_style],) * 2,
        act_dim=3,
        act_low=-1.0,
        act_high=1.0,
        horizon=HORIZON,
        reward="shared",
        facts=facts(obs_style),
    )


class HalfCheetahEnv:
    """E rows of 2-agent HalfCheetah (``dom2data.spec.VectorEnv``).

    ``models`` lists the model of each row, by default the standard one; shifts replace items of the list
    before an episode. ``threads`` only affects speed.
    """

    def __init__(
        self,
        num_envs: int,
        seed: Any = 0,
        env_id: str = "halfcheetah",
        obs_style: ObsStyle = "omar",
        threads: int = 1,
    ):
        if obs_style not in get_args(ObsStyle):
            raise ValueError(f"expected an obs_style ({', '.join(get_args(ObsStyle))}), found {obs_style!r}")
        self.num_envs, self.obs_style, self.spec = num_envs, obs_style, spec(env_id, obs_style)
        model = standard_model()
        self.models: list[mujoco.MjModel] = [model] * num_envs
        self._running = list(self.models)
        self._batch = Batch(model, num_envs, min(threads, num_envs))
        # Live views of the rows' states: what is written there is used by the next step.
        self._qpos, self._qvel, self._ctrl = map(self._batch.bind, ("qpos", "qvel", "ctrl"))
        self._time = np.zeros(num_envs, np.int64)
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self.reset()

    @property
    def state(self) -> tuple[Float64, Float64]:
        """Copies of positions [E, 9] and velocities [E, 9], in gymnasium's order."""
        return self._qpos.copy(), self._qvel.copy()

    def load_state(self, qpos: Float64, qvel: Float64, mask: Bool | None = None) -> Float32:
        """Start new episodes in the R rows of ``mask`` [E] (default: all); return obs [E, N, O].

        Positions and velocities are [R, 9], in gymnasium's order.
        """
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        self._batch.reset(rows, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[rows], self._qvel[rows] = qpos, qvel
        self._time[rows] = 0
        return self.observe()

    def reset(self, seed: Any = None, mask: Bool | None = None) -> Float32:
        """Start new episodes in the rows of ``mask`` [E] (default: all); return obs [E, N, O]."""
        if seed is not None:
            self._seed, self._rng = seed, np.random.default_rng(seed)
        mask = np.ones(self.num_envs, bool) if mask is None else mask
        shape = (int(mask.sum()), NQ)
        qpos = self._rng.uniform(-RESET_NOISE, RESET_NOISE, shape)
        return self.load_state(qpos, RESET_NOISE * self._rng.standard_normal(shape), mask)

    def step(self, actions: Float32) -> Step:
        """Apply actions [E, 2, 3], torques in [-1, 1] (clipped by MuJoCo), for five physics steps of 0.01 s.

        Raises UserError (code 1), naming seed and step, when MuJoCo diverges.
        """
        joint = np.asarray(actions, np.float32).reshape(self.num_envs, 6)
        if self.models != self._running:
            self._running = list(self.models)
            self._batch.set_models(self._running)
        before = self._qpos[:, 0].copy()
        self._ctrl[:] = joint
        self._batch.step(nstep=FRAME_SKIP)
        self._time += 1
        self._check()
        speed = (self._qpos[:, 0] - before) / (FRAME_SKIP * standard_model().opt.timestep)
        reward = (speed - np.float32(CONTROL_COST) * np.square(joint).sum(-1)).astype(np.float32)
        return Step(
            obs=self.observe(),
            rewards=np.repeat(reward[:, None], 2, axis=1),
            terminated=np.zeros(self.num_envs, bool),
            truncated=self._time >= HORIZON,
        )

    def observe(self) -> Float32:
        """Return observations [E, 2, O] of the current state.

        omar: position and velocity of each joint of the agent's leg, foot first. mamujoco_v1: in addition,
        the position of the other leg's thigh, the torso's height and angle, and the three root velocities.
        """
        position, velocity = self._qpos, self._qvel
        obs = np.empty((self.num_envs, 2, OBS_DIMS[self.obs_style]), np.float32)
        for agent, joints in enumerate(_JOINTS):
            obs[:, agent, 0:6:2] = position[:, joints]
            obs[:, agent, 1:6:2] = velocity[:, joints]
            if self.obs_style == "mamujoco_v1":
                obs[:, agent, 6] = position[:, _NEIGHBOUR[agent]]
                obs[:, agent, 7:9] = position[:, _ROOT]
                obs[:, agent, 9:12] = velocity[:, :3]
        return obs

    def _check(self) -> None:
        """Raise UserError if a row has diverged: MuJoCo then sets a warning, which reset clears."""
        warned = self._batch.warning[:, :, 1]
        if warned.any():
            row = int(np.flatnonzero(warned.any(axis=1))[0])
            kinds = ", ".join(mujoco.mjtWarning(int(i)).name for i in np.flatnonzero(warned[row]))
            raise UserError(
                f"{self.spec.env_id}: expected a finite state, found MuJoCo diverged ({kinds}) at step "
                f"{self._time[row]} of row {row} (seed {self._seed}); the episode is lost, use another seed "
                "or milder physics",
                FAILED,
            )
