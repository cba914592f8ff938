"""`kdfast distill RECIPE ...` from the arguments to the finished folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import torch

import kdfast
from kdfast.recipes.common.errors import Interrupted, UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.parse import config_of, parse
from kdfast.recipes.common.ranks import is_main, say, under_torchrun

_OUT = "KDFAST_RUN_FOLDER"  # tells the processes that Lightning starts which folder the first one chose


def run(name: str, recipe: ModuleType, arguments: list[str]) -> None:
    """Parse, make or open the folder, run the recipe.

    Raises:
        UserError: one line for the person.
    """
    options, given = parse(name, recipe, arguments)
    if given.resume is not None:
        out = RunFolder.open(given.resume)
        if out.finished:
            say(f"{out.path} is finished: {out.path / 'report.html'}")
            return
        say(f"{name}: resuming {out.path}")
    else:
        kdfast.backend.of(
            torch.empty(0, device=options.torch_device())
        )  # fails now if the one asked for cannot run
        path = given.out or os.environ.get(_OUT) or _free(name)
        if hasattr(options, "prepare"):
            options.prepare()
        out = RunFolder.create(path, config_of(name, options))
        say(f"{name}: writing {out.path}")
    os.environ[_OUT] = str(out.path)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads)
        recipe.run(options, out)
    except (Interrupted, KeyboardInterrupt) as error:
        sentence = f"kdfast distill {name} --resume {out.path} goes on from the last whole epoch"
        raise Interrupted(
            f"{str(error) or 'interrupted'}; {sentence}", getattr(error, "status", 130)
        ) from error
    finally:
        os.environ.pop(_OUT, None)
        torch.set_num_threads(threads)
    if is_main() and not out.finished:
        raise RuntimeError(f"recipe {name} ended without writing report.html")
    say(f"report: {out.path / 'report.html'}")


def _free(name: str) -> Path:
    """runs/NAME, or runs/NAME-2, ... : the first that is not there."""
    if under_torchrun():
        raise UserError("under torchrun --out is needed, so that every process writes to the same folder")
    paths = (Path("runs", name if i == 1 else f"{name}-{i}") for i in range(1, 10**6))
    return next(path for path in paths if not path.exists())
