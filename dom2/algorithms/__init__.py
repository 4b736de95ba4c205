"""Algorithms by name. An algorithm learns; what it has learned is a policy, which acts."""

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
"""What an ``update`` can be given, see ``Learner``."""

_files: dict[Path, tuple[tuple[int, int], Any]] = {}
"""modules of users' own files, each with its time and size when it was loaded"""


class Learner(Protocol):
    """M = seeds x agents members that learn side by side.

    ``batches`` says what ``update`` is given, and thereby how it names its members:

    - ``independent``: a Batch whose fields lead with M; every agent has its own minibatch.
    - ``joint``: the same, but the agents of a seed have the same transitions, so that ``view(S, N, B, ...)``
      is a minibatch of joint transitions for each of S seeds.
    - ``windows``: Windows of ``config.horizon`` steps, their returns discounted by ``config.gamma``.

    ``members`` holds all that is saved: networks, optimisers, generators, the number of updates.
    """

    config: Any
    members: Members

    @property
    def batches(self) -> Literal["independent", "joint", "windows"]: ...

    def update(self, batch: Any) -> dict[str, torch.Tensor]:
        """One gradient update of everything; metrics are tensors [M], or [S] of what is centralised.

        They are not read back to the host.
        """
        ...

    def phase(self) -> Hashable:
        """What the next update depends on besides tensors: updates of one phase are one program.

        ``dom2.graphed`` records each phase once. None: the next update is not to be recorded. An algorithm
        without this method is never recorded.
        """
        ...

    def policy(self, seed: int, candidates: int = 1) -> Policy:
        """A snapshot of seed ``seed`` that later updates do not reach."""
        ...


class Algorithm(Learner, Protocol):
    """What makes learners: ``config_type`` is a frozen dataclass, ``presets`` are values of its fields;
    ``augment`` is what ``--augment auto`` means. One that clones until some update may have
    ``improves_after``, the name of the field with its number; of shorter runs the user is told."""

    config_type: ClassVar[type[Any]]
    presets: ClassVar[dict[str, dict[str, Any]]]
    augment: ClassVar[Literal["quantile", "score", "none"]]

    def __init__(self, config: Any, spec: EnvSpec, members: Members) -> None: ...


def load(name: str) -> type[Algorithm]:
    """The class of an algorithm: one of ``ALGORITHMS`` or ``path/to/file.py:Class``.

    Raises UserError (usage) when there is none.
    """
    target = ALGORITHMS.get(name, name)
    module_name, _, class_name = target.rpartition(":")
    if module_name.endswith(".py") and Path(module_name).is_file():
        try:
            module = _load_file(Path(module_name))
        except (Exception, SystemExit) as error:  # of the user's own code, whatever it is
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
    """New networks for ``n_seeds`` teams, each with its own generator.

    Raises ValueError like ``Members``, and UserError (usage) where the class leaves out what others look for.
    """
    from dom2.members import Members  # loads PyTorch

    if hasattr(kind, "create"):  # a user's own way, which was the only one
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
    """The file's module, of code that is run once for as long as nobody edits it."""
    where, seen = path.resolve(), path.stat()
    stamp = (seen.st_mtime_ns, seen.st_size)
    if where in _files and _files[where][0] == stamp:
        module = _files[where][1]
        sys.modules[module.__name__] = module  # where another file of this name may be
        return module
    spec = importlib.util.spec_from_file_location(f"dom2_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    _files[where] = stamp, module
    return module
