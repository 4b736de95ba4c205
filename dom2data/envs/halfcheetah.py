"""HalfCheetah driven by two agents, one per leg (2x3), on MuJoCo, many rows at once.

Model, reset and reward are those of gymnasium's HalfCheetah-v5; a row follows it bit for bit, because the
solver's warm start is carried from step to step as one ``MjData`` would. Action order and, by default,
observations are those of the published offline datasets.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import mujoco
import numpy as np
from mujoco.rollout import Rollout
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
"""Positions, and as many velocities: root x, root z, root angle, then back and front thigh, shin, foot."""
# The published code lists an agent's joints by name (foot, shin, thigh), its actions in actuator order.
_JOINTS = ((5, 4, 3), (8, 7, 6))
_NEIGHBOUR = (6, 3)  # the other agent's thigh, one joint away
_ROOT = (1, 2)  # root x is left out: the reward depends on its speed alone
_STATE, _CONTROL = mujoco.mjtState.mjSTATE_FULLPHYSICS, int(mujoco.mjtState.mjSTATE_CTRL)


@cache
def xml() -> Path:
    """The model file, as installed with gymnasium."""
    return Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"


@cache
def standard_model() -> mujoco.MjModel:
    """The compiled model; shifted ones are edited copies of it."""
    model = mujoco.MjModel.from_xml_path(str(xml()))
    # MuJoCo would put a diverged cheetah back to its start without a word.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return model


def facts(obs_style: ObsStyle) -> dict[str, Any]:
    """What the numbers depend on."""
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
    """The task as the two agents see it."""
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

    ``models`` are the rows' models, the standard one by default; a shifted environment replaces some of them
    before an episode. ``threads`` changes the speed and nothing else.
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
        self._states = np.zeros((num_envs, FRAME_SKIP, mujoco.mj_stateSize(model, _STATE)))
        self._state = self._states[:, -1].copy()  # time, positions, velocities
        self._warm_start = np.zeros((num_envs, NQ))
        self._time = np.zeros(num_envs, np.int64)
        cuts = np.linspace(0, num_envs, min(threads, num_envs) + 1).astype(int)
        self._parts = [(slice(a, b), mujoco.MjData(model)) for a, b in zip(cuts, cuts[1:], strict=False)]
        self._pool = ThreadPoolExecutor(len(self._parts)) if len(self._parts) > 1 else None
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self.reset()

    @property
    def state(self) -> tuple[Float64, Float64]:
        """Copies of positions [E, 9] and velocities [E, 9], in gymnasium's order."""
        return self._state[:, 1 : 1 + NQ].copy(), self._state[:, 1 + NQ :].copy()

    def load_state(self, qpos: Float64, qvel: Float64, mask: Bool | None = None) -> Float32:
        """Start new episodes from positions and velocities [E, 9]; returns obs [E, N, O]."""
        rows = slice(None) if mask is None else np.flatnonzero(mask)
        self._state[rows, 0] = 0.0
        self._state[rows, 1 : 1 + NQ], self._state[rows, 1 + NQ :] = qpos, qvel
        self._warm_start[rows] = 0.0
        self._time[rows] = 0
        return self.observe()

    def reset(self, seed: Any = None, mask: Bool | None = None) -> Float32:
        """New episodes in the rows of ``mask`` [E] (all by default); returns obs [E, N, O]."""
        if seed is not None:
            self._seed, self._rng = seed, np.random.default_rng(seed)
        mask = np.ones(self.num_envs, bool) if mask is None else mask
        shape = (int(mask.sum()), NQ)
        qpos = self._rng.uniform(-RESET_NOISE, RESET_NOISE, shape)
        return self.load_state(qpos, RESET_NOISE * self._rng.standard_normal(shape), mask)

    def step(self, actions: Float32) -> Step:
        """Torques in [-1, 1] (beyond, MuJoCo clips), actions [E, 2, 3], for five physics steps of 0.01 s.

        Raises UserError (code 1), naming seed and step, when MuJoCo diverges.
        """
        joint = np.asarray(actions, np.float32).reshape(self.num_envs, 1, 6)
        controls = np.repeat(joint.astype(np.float64), FRAME_SKIP, axis=1)
        before = self._state.copy()
        if self._pool is None:
            self._advance(self._parts[0], controls)
        else:
            list(self._pool.map(lambda part: self._advance(part, controls), self._parts))
        self._time += 1
        self._check(before)
        dt = FRAME_SKIP * standard_model().opt.timestep
        speed = (self._state[:, 1] - before[:, 1]) / dt
        reward = (speed - np.float32(CONTROL_COST) * np.square(joint[:, 0]).sum(-1)).astype(np.float32)
        return Step(
            obs=self.observe(),
            rewards=np.repeat(reward[:, None], 2, axis=1),
            terminated=np.zeros(self.num_envs, bool),
            truncated=self._time >= HORIZON,
        )

    def observe(self) -> Float32:
        """Observations [E, 2, O] of the present state.

        omar: position and velocity of each of the leg's joints, foot first. mamujoco_v1: these, the position
        of the other leg's thigh, the torso's height and angle, and the velocities of its three joints.
        """
        position, velocity = self._state[:, 1 : 1 + NQ], self._state[:, 1 + NQ :]
        obs = np.empty((self.num_envs, 2, OBS_DIMS[self.obs_style]), np.float32)
        for agent, joints in enumerate(_JOINTS):
            obs[:, agent, 0:6:2] = position[:, joints]
            obs[:, agent, 1:6:2] = velocity[:, joints]
            if self.obs_style == "mamujoco_v1":
                obs[:, agent, 6] = position[:, _NEIGHBOUR[agent]]
                obs[:, agent, 7:9] = position[:, _ROOT]
                obs[:, agent, 9:12] = velocity[:, :3]
        return obs

    def _advance(self, part: tuple[slice, mujoco.MjData], controls: Float64) -> None:
        """Advance a part's rows one after another: only so does ``MjData`` say the row's next warm start."""
        rows, data = part
        rollout, datas, sensors = Rollout(nthread=0), [data], np.empty((1, FRAME_SKIP, 0))
        warm_start = data.qacc_warmstart
        for row in range(rows.start, rows.stop):
            one = slice(row, row + 1)
            rollout.rollout(
                self.models[one], datas, self._state[one], controls[one], skip_checks=True,
                nstep=FRAME_SKIP, initial_warmstart=self._warm_start[one], control_spec=_CONTROL,
                state=self._states[one], sensordata=sensors,
            )  # fmt: skip
            self._warm_start[row] = warm_start
        self._state[rows] = self._states[rows, -1]

    def _check(self, before: Float64) -> None:
        """A rollout stops its clock at the first warning of MuJoCo."""
        elapsed = self._state[:, 0] - before[:, 0]
        good = np.isfinite(self._state).all(axis=1) & (elapsed > (FRAME_SKIP - 0.5) * 0.01)
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            raise UserError(
                f"halfcheetah: expected a finite state, found MuJoCo diverged at step {self._time[row]} of "
                f"row {row} (seed {self._seed}); the episode is lost, use another seed or milder physics",
                FAILED,
            )
