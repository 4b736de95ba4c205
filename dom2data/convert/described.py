"""Determine what the numbers in a foreign file mean: from an environment's name, from the note that our own
writers add to the file, or else from the numbers alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dom2data import envs, named
from dom2data.convert import files
from dom2data.convert.ingest import Imported, refused
from dom2data.dataset import Dataset
from dom2data.errors import UserError
from dom2data.spec import Bool, EnvSpec
from dom2data.store import schema

NOTE = "dom2"
"""name of the note in formats with named entries"""
FILE = "dom2.json"
"""file name of the note in formats that are folders"""


@dataclass(frozen=True)
class Described:
    """The spec of the data, and where it comes from."""

    spec: EnvSpec
    env: str
    quality: str | None = None
    sources: tuple[str, ...] = ()
    exported: Mapping[str, Any] = field(default_factory=dict)
    """id and hash of the dataset that our own writer exported"""
    says: str = ""

    def imported(
        self,
        arrays: Mapping[str, NDArray[Any]],
        notes: Sequence[str],
        format_: str,
        used: Mapping[str, Path],
        options: dict[str, Any],
    ) -> Imported:
        """Make an ``Imported`` from arrays in the store's shapes, read from ``used`` with these options."""
        origin = {"format": format_, "files": files.sha256(used), "options": options}
        origin |= {"exported": dict(self.exported)} if self.exported else {}
        says = (self.says, *notes)
        return Imported(self.spec, arrays, says, origin, self.env, self.quality, self.sources)


Holds = Literal["both", "terminations", "ends"]
"""What a format records about an episode's end: both flags, only whether it terminated (all others were
truncated), or only that it ended (``rows.terminated_by`` then guesses)."""


def note(dataset: Dataset, holds: Holds = "both") -> str:
    """Return the JSON note that our writers add: spec, names, id and hash of the exported dataset, and the
    episodes' end flags, if these cannot be recovered from what the format ``holds``."""
    terminated, truncated = dataset.array("terminated"), dataset.array("truncated")
    guessed = dataset.lengths < dataset.lengths.max()
    lost = (truncated == terminated).any() or (holds == "ends" and (terminated != guessed).any())
    value = {
        "spec": dataset.spec.to_json(),
        "env": dataset.env,
        "quality": dataset.quality,
        "sources": dataset.manifest.get("sources", []),
        "exported": {"id": dataset.id, "hash": dataset.hash},
    }
    if lost and holds != "both":
        packed = {"terminated": _packed(terminated), "truncated": _packed(truncated)}
        value["ends"] = {"episodes": dataset.n_episodes, **packed}
    return json.dumps(value, sort_keys=True)


def _packed(flags: Bool) -> str:
    """Pack eight flags per byte, as hexadecimal digits."""
    return np.packbits(flags).tobytes().hex()


def ends(text: str | bytes | None, episodes: int) -> tuple[Bool, Bool] | None:
    """Return the flags ``terminated`` and ``truncated`` [Ep] in a note, if it has them for ``episodes``.

    Raises UserError (code 3) when they are not what ``note`` writes.
    """
    try:
        found = json.loads(text or "{}")["ends"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    try:
        if found["episodes"] != episodes:
            return None
        packed = [bytes.fromhex(found[name]) for name in ("terminated", "truncated")]
        first, second = (
            np.unpackbits(np.frombuffer(flags, np.uint8), count=episodes).astype(bool) for flags in packed
        )
    except (ValueError, KeyError, TypeError) as error:
        raise refused(f"the note {NOTE!r}: expected flags of the ends, found others") from error
    if {len(flags) for flags in packed} != {-(-episodes // 8)} or not (first | second).all():
        raise refused(f"the note {NOTE!r}: expected flags of {episodes} ends, found others")
    return first, second


def from_note(text: str | bytes) -> Described:
    """Read a note. Raises UserError (code 3) if it is invalid."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refused(f"expected the note {NOTE!r} as JSON, found {error}") from error
    if not isinstance(value, dict):
        raise refused(f"expected the note {NOTE!r} to be an object, found {type(value).__name__}")
    finding = schema.spec(value.get("spec"))
    env, quality, sources = value.get("env"), value.get("quality"), value.get("sources", [])
    texts = [env, quality or "none", *(sources if isinstance(sources, list) else [None])]
    if finding or not all(isinstance(text, str) for text in texts):
        raise refused(f"the note {NOTE!r}: {finding or 'expected names of env, quality and sources'}")
    found = value.get("exported")
    found = found if isinstance(found, dict) else {}
    exported = {key: str(found[key]) for key in ("id", "hash") if key in found}
    spec = EnvSpec.from_json(value["spec"])
    says = f"spec as the file's own note gives it: {env}, fingerprint {spec.fingerprint}"
    return Described(spec, str(env), quality, tuple(sources), exported, says)


def from_env(name: str) -> Described:
    """Return the spec of an environment. Raises UserError (code 2) for an unknown name."""
    named.remember(name)
    try:
        spec = envs.spec(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    says = f"taken to be {name} of fingerprint {spec.fingerprint}, because --env says so"
    return Described(spec, name, says=says)


def from_numbers(
    format_: str, observations: Sequence[int], actions: NDArray[Any], rewards: NDArray[Any], horizon: int
) -> Described:
    """Assume numbered agents, action bounds [-1, 1], shared rewards if equal; ``observations`` are widths."""
    spec = EnvSpec(
        env_id="unknown",
        agent_names=tuple(f"agent_{i}" for i in range(actions.shape[1])),
        obs_dims=tuple(observations),
        act_dim=actions.shape[2],
        act_low=-1.0,
        act_high=1.0,
        horizon=horizon,
        reward="shared" if (rewards == rewards[:, :1]).all() else "individual",
        facts={"imported": format_},
    )
    says = (
        f"environment unknown (--env names it): {spec.reward} rewards, horizon {horizon}, actions in [-1, 1]"
    )
    return Described(spec, "unknown", says=says)
