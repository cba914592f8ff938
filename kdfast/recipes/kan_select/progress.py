"""What the recipe shows while it runs: a bar on a terminal, a line a fold elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kdfast.recipes.common.ranks import is_main, say


class Steps:
    """with Steps("auto", 40) as steps: steps.done("wine fold 1", "KAN-L1 0.95"), forty times."""

    def __init__(self, kind: str, total: int) -> None:
        self._lines = kind == "plain" or (kind == "auto" and not sys.stdout.isatty())
        columns = [
            TextColumn("{task.description:<32}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        ]
        shown = is_main() and kind != "none" and not self._lines
        self._bar = Progress(*columns, TimeRemainingColumn(), disable=not shown)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def done(self, name: str, result: str) -> None:
        """One step is finished."""
        if self._lines:
            say(f"{name}  {result}")
        self._bar.update(self._task, advance=1, description=name)
