"""Metrics of updates: their means over agents for each seed, and a watch for values that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor

from dom2 import checkpoint
from dom2.members import Members, Metrics
from dom2.run import Run
from dom2data.errors import FAILED, UserError


def reduce(metrics: Metrics, seeds: int) -> dict[str, list[float]]:
    """Average [M] over agents (and keep [S]): one number for each seed, under ``train/<name>``."""
    rows = [value.detach().double().view(seeds, -1).mean(dim=1) for value in metrics.values()]
    table = torch.stack(rows).tolist()  # one transfer from the device
    return {f"train/{name}": row for name, row in zip(metrics, table, strict=True)}


def require(metrics: object, seeds: int) -> None:
    """Raise UserError unless an update returned a dict of tensors with one value per member or seed."""
    hint = "return tensors [M] or [S] by name (docs/your-algorithm.md)"
    if not (isinstance(metrics, dict) and metrics):
        raise UserError(f"expected metrics from update, found {metrics!r}; {hint}", FAILED)
    for name, value in metrics.items():
        if not isinstance(value, Tensor):
            found = type(value).__name__
        elif value.numel() == 0 or value.numel() % seeds:
            found = f"shape {[*value.shape]} with {seeds} seeds"
        else:
            continue
        raise UserError(f"expected a number for each member or seed as {name}, found {found}; {hint}", FAILED)


def sound(run: Run, update: int, members: Members) -> None:
    """Raise UserError if a weight is NaN, since no metric has seen the result of the last step."""
    if any(values.isnan().any() for values in members.networks.parameters()):
        raise ran_away(run, update, "expected numbers as weights, found NaN")


def ran_away(run: Run, update: int, found: str) -> UserError:
    """Make the error for an update with a value that is not finite, which ``found`` describes."""
    kept = checkpoint.updates(run.folder)
    return UserError(
        f"update {update}: {found}; the checkpoint at update {kept} is kept; try a smaller --lr", FAILED
    )


class Watch:
    """Keep the metrics of the first update with one that is not finite, on the device until checked."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._first: dict[tuple[str, ...], tuple[Tensor, Tensor, list[int]]] = {}
        """by metric names, which differ between phases: update (0 for none), values, sizes"""

    def see(self, update: int, metrics: Metrics) -> None:
        """Watch an update's metrics without reading them back to the host.

        Raises UserError like ``require``.
        """
        if not isinstance(metrics, dict) or tuple(metrics) not in self._first:
            require(metrics, self._seeds)
        values = torch.cat([value.detach().reshape(-1) for value in metrics.values()])
        wrong, names = ~values.isfinite().all(), tuple(metrics)
        before, kept, sizes = self._first.get(names) or (
            torch.zeros((), dtype=torch.int64, device=values.device),
            values,
            [value.numel() for value in metrics.values()],
        )
        fine = before == 0
        first = torch.where(fine & wrong, torch.full_like(before, update), before)
        self._first[names] = first, torch.where(fine, values, kept), sizes

    def check(self, run: Run) -> None:
        """Raise UserError, naming update, metric and member, if a metric was not finite."""
        found = [(int(first), names) for names, (first, _, _) in self._first.items()]
        for update, names in sorted((update, names) for update, names in found if update):
            _, values, sizes = self._first[names]
            parts = zip(names, values.split(sizes), strict=True)
            name, part = next((name, part) for name, part in parts if not part.isfinite().all())
            rows = part.view(run.settings.seeds, -1)
            seed, agent = (int(i) for i in (~rows.isfinite()).nonzero()[0])
            member = f"seed {run.seeds[seed]}"
            if rows.shape[1] == run.spec.n_agents:
                member += f", {run.spec.agent_names[agent]}"
            value = rows[seed, agent].item()
            raise ran_away(run, update, f"expected finite metrics, found {name} = {value} ({member})")
