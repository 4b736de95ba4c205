"""Algorithms by name. An algorithm learns; the result is a policy, which acts."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from dom2data.errors import UserError, told

if TYPE_CHECKING:
    import torch

    from dom2.members import Members
    from dom2_policies.policy import Policy
    from dom2data.spec import EnvSpec

ALGORITHMS = {
    "dom2": "dom2.algorithms.dom2:DOM2",
    "bc": "dom2.algorithms.bc:BC",
    "ma-td3+bc": "dom2.algorithms.ma_td3_bc:MATD3BC",
    "ma-cql": "dom2.algorithms.ma_cql:MACQL",
    "omar": "dom2.algorithms.omar:OMAR",
    "cfcql": "dom2.algorithms.cfcql:CFCQL",
    "ma-iql": "dom2.algorithms.ma_iql:MAIQL",
    "ma-icq": "dom2.algorithms.ma_icq:MAICQ",
    "ma-diffusion-ql": "dom2.algorithms.ma_diffusion_ql:MADiffusionQL",
    "ma-sfbc": "dom2.algorithms.ma_sfbc:MASfBC",
    "omiga": "dom2.algorithms.omiga:OMIGA",
    "madiff": "dom2.algorithms.madiff:MADiff",
}

BATCHES = ("independent", "joint", "windows")
"""Kinds of batch that ``update`` can take; see ``Learner``."""

_files: dict[Path, tuple[tuple[int, int], Any]] = {}
"""modules loaded from users' own files, each with the file's modification time and size at that moment"""


class Learner(Protocol):
    """M = seeds x agents members that learn side by side.

    ``batches`` is the kind of batch that ``update`` takes, and thereby the layout of its members:

    - ``independent``: a Batch whose fields have the leading dimension M; every agent has its own minibatch.
    - ``joint``: the same, but all agents of a seed get the same transitions, so ``view(S, N, B, ...)`` is a
      minibatch of joint transitions for each of S seeds.
    - ``windows``: Windows of ``config.horizon`` steps, with returns discounted by ``config.gamma``.

    ``members`` holds everything that is saved: networks, optimisers, generators, the number of updates.
    """

    config: Any
    members: Members

    @property
    def batches(self) -> Literal["independent", "joint", "windows"]: ...

    def update(self, batch: Any) -> dict[str, torch.Tensor]:
        """Do one gradient update of all networks; return metrics [M], or [S] for centralised networks.

        Metrics stay on the device.
        """
        ...

    def phase(self) -> Hashable:
        """Return the state besides tensors that the next update depends on, or None not to record it.

        Updates with equal phases run the same program, which ``dom2.graphed`` records once for each phase.
        An algorithm without this method is never recorded.
        """
        ...

    def policy(self, seed: int, candidates: int = 1) -> Policy:
        """Return a snapshot of the agents of one seed (an index from 0); later updates do not change it."""
        ...


class Algorithm(Learner, Protocol):
    """A class of learners: ``config_type`` is a frozen dataclass, ``presets`` hold values of its fields, and
    ``augment`` is the meaning of ``--augment auto``. A class that only clones at first may name, in
    ``improves_after``, the field with the number of those updates: shorter runs then print a note."""

    config_type: ClassVar[type[Any]]
    presets: ClassVar[dict[str, dict[str, Any]]]
    augment: ClassVar[Literal["quantile", "score", "none"]]

    def __init__(self, config: Any, spec: EnvSpec, members: Members) -> None: ...


def load(name: str) -> type[Algorithm]:
    """Return an algorithm's class by its name in ``ALGORITHMS`` or as ``path/to/file.py:Class``.

    Raises UserError (usage) when there is no such class or it is not an algorithm.
    """
    target = ALGORITHMS.get(name, name)
    module_name, _, class_name = target.rpartition(":")
    if module_name.endswith(".py") and Path(module_name).is_file():
        try:
            module = _load_file(Path(module_name))
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise UserError(
                f"{module_name}: expected a module that can be imported, found {told(error)}{where}"
            ) from error
    elif name in ALGORITHMS:
        module = importlib.import_module(module_name)
    else:
        if module_name.endswith(".py"):
            raise UserError(f"expected a file {module_name}, found none in {Path.cwd()}")
        known = ", ".join(ALGORITHMS)
        hint = f"name its class, {name}:Class" if name.endswith(".py") else "see dom2 fit --help"
        raise UserError(f"expected an algorithm ({known}) or file.py:Class, found {name!r}; {hint}")
    if not hasattr(module, class_name):
        raise UserError(f"expected a class {class_name!r} in {module_name}, found none; check the name")
    kind = getattr(module, class_name)
    needed = ("config_type", "presets", "batches", "augment", "update", "policy")
    missing = [each for each in needed if not hasattr(kind, each)]
    if not hasattr(kind, "create") and getattr(kind, "__init__", None) is object.__init__:
        missing.insert(0, "__init__")
    if missing:
        raise UserError(
            f"{name}: expected an algorithm as in docs/your-algorithm.md, found no {', '.join(missing)} in it"
        )
    _require_defaults(name, kind.config_type)
    return kind


def _require_defaults(name: str, config_type: Any) -> None:
    """Raises UserError (usage) unless a config is a dataclass that can be made without arguments."""
    if not (isinstance(config_type, type) and dataclasses.is_dataclass(config_type)):
        raise UserError(f"{name}: expected config_type to be a frozen dataclass, found {config_type!r}")
    none = dataclasses.MISSING
    for field in dataclasses.fields(config_type):
        if field.default is none and field.default_factory is none:
            raise UserError(f"{name}: expected a default of {config_type.__name__}.{field.name}, found none")


def create(
    kind: type[Algorithm],
    config: Any,
    spec: EnvSpec,
    n_seeds: int,
    device: torch.device,
    generators: Sequence[torch.Generator],
) -> Algorithm:
    """Make an algorithm with new networks for ``n_seeds`` teams, each with its own generator.

    Raises ValueError like ``Members``, and UserError (usage) when a required attribute is missing or invalid.
    """
    from dom2.members import Members  # loads PyTorch

    if hasattr(kind, "create"):  # a user's own factory, once the only way
        made = kind.create(config, spec, n_seeds, device, generators)
    else:
        made = kind(config, spec, Members(spec, n_seeds, device, generators))
    if missing := [each for each in ("config", "members") if not hasattr(made, each)]:
        raise UserError(f"{kind.__name__}: expected __init__ to set {' and '.join(missing)}, found none set")
    if made.batches not in BATCHES:
        raise UserError(
            f"{kind.__name__}: expected batches {', '.join(BATCHES[:-1])} or {BATCHES[-1]}, "
            f"found {made.batches!r}"
        )
    return made


def _load_file(path: Path) -> Any:
    """Return a file's module; its code runs again only after the file has changed."""
    where, seen = path.resolve(), path.stat()
    stamp = (seen.st_mtime_ns, seen.st_size)
    if where in _files and _files[where][0] == stamp:
        module = _files[where][1]
        sys.modules[module.__name__] = module  # another file of this name may be there
        return module
    spec = importlib.util.spec_from_file_location(f"dom2_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    _files[where] = stamp, module
    return module
