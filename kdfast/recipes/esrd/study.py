"""What the recipe studies: a cohort with windows, or one task without, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdfast.recipes.esrd.cohort import WINDOWS, Cohort, Funnel, Task
from kdfast.recipes.esrd.findings import Finding
from kdfast.recipes.esrd.synthetic.truth import Truth


@dataclass(frozen=True)
class Study:
    """`cohort` for records over time, or `static` for one visit a person."""

    title: str
    outcome: str
    provenance: str  # origin and licence of the data
    cohort: Cohort | None = None
    static: Task | None = None
    findings: list[Finding] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)  # of each table that was read
    truth: Truth | None = None  # of synthetic people
    horizon: int = 24  # months
    sources: tuple[str, ...] = ("clinical", "claims")

    @property
    def windows(self) -> tuple[int, ...]:
        """Months; empty for a static study."""
        return WINDOWS if self.cohort is not None else ()

    @property
    def funnel(self) -> Funnel:
        """Before any window."""
        return self.cohort.funnel if self.cohort is not None else []

    def outcome_after(self, task: Task) -> str:
        """The outcome with its period, such as "ESRD within 24 months after the observation window"."""
        return (
            f"{self.outcome} within {task.horizon} months after the window" if task.horizon else self.outcome
        )

    def task(self, months: int, horizon: int = 0, **options: Any) -> Task:
        """`Cohort.task`, or the static one under the same options as far as they apply."""
        if self.cohort is not None:
            return self.cohort.task(months, horizon=horizon or self.horizon, **options)
        chosen = {k: v for k, v in options.items() if k in ("sources", "equation", "race_feature")}
        return self.static.select(**chosen)
