"""The `kdfast` command: `distill` a student, `bench` the ops, `info` about this installation.

Exit status: 0 done; 2 bad input, with one line on stderr; 130 interrupted, 141 nobody reads the output, 143
terminated; anything else is a fault, with a traceback. KDFAST_TRACEBACK=1 shows where a one-line error came
from.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kdfast import backend
from kdfast.recipes.common.errors import FULL_DISK, Interrupted, UserError, why


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(arguments)
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"kdfast: {str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "status", 130)
    except BrokenPipeError:  # the reader has seen enough (`| head`); without this Python complains as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or os.environ.get("KDFAST_TRACEBACK") == "1":
            raise
        print(f"kdfast: {sentence}", file=sys.stderr)
        return 2


def _sentence(error: Exception) -> str | None:
    """What to tell the person, or None for a fault of ours.

    Ours to tell are UserError, a full disk, Lightning's refusal of a setting (more GPUs than there are), and
    what kdfast's own checks raise on purpose: TypeError, ValueError and RuntimeError from a `raise` in this
    package.
    """
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return f"cannot write {error.filename or 'a file'}: {why(error)}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).is_relative_to(Path(__file__).parent) and (last.line or "").startswith(
        "raise "
    )
    checked = ours and isinstance(error, (TypeError, ValueError, RuntimeError))
    if type(error).__name__ == "MisconfigurationException":
        return " ".join(str(error).split())
    if not isinstance(error, UserError) and not checked:
        return None
    return str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")


def _dispatch(arguments: list[str]) -> int:
    parser = _Parser(prog="kdfast", description="Fused losses and recipes for knowledge distillation.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    distill = commands.add_parser("distill", help="train a student by a published recipe", add_help=False)
    distill.add_argument("recipe", nargs="?")
    bench = commands.add_parser("bench", help="measure ops against plain PyTorch and other packages")
    bench.add_argument("ops", nargs="*", metavar="op", help="kl_div, ...; all if none is named")
    info = commands.add_parser("info", help="version, build, devices, and why a backend cannot run")
    info.add_argument("--json", action="store_true", help="as one JSON object")
    info.add_argument(
        "--check", action="store_true", help="compute every op on every backend; exit 1 if one is wrong"
    )
    commands.add_parser("class-means", help="build a teacher's class means for nd_loss", add_help=False)
    if arguments[:1] in (["distill"], ["class-means"]):
        backend.check_environment()
    if arguments[:1] == ["distill"]:
        return _distill(arguments[1:])
    if arguments[:1] == ["class-means"]:
        from kdfast import class_means

        return class_means.main(arguments[1:])
    given = parser.parse_args(arguments)
    if given.version:
        return _version()
    backend.check_environment()
    if given.command == "bench":
        return _bench(given.ops)
    if given.command == "info":
        return _info(as_json=given.json, check=given.check)
    parser.print_help()
    return 0


def _version() -> int:
    import kdfast

    print(f"kdfast {kdfast.__version__}")
    return 0


def _distill(arguments: list[str]) -> int:
    from kdfast import recipes

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: kdfast distill RECIPE [options]\n       kdfast distill RECIPE --help\n\nrecipes:")
        print("\n".join(f"  {name:<16}{recipes.headline(name)}" for name in recipes.names()))
        print("\nseveral processes:\n  kdfast distill RECIPE --devices 2")
        print("  torchrun --nproc-per-node 2 -m kdfast.cli distill RECIPE --out OUT")
        return 0
    if arguments[0].startswith("-"):
        raise UserError(
            f"a recipe is needed before {arguments[0]}; the recipes are {', '.join(recipes.names())}"
        )
    module = recipes.load(arguments[0])
    try:
        from kdfast.recipes.common.run import run
    except ModuleNotFoundError as error:
        raise UserError(f"kdfast distill needs {error.name}: pip install '{recipes.EXTRA}'") from error
    run(arguments[0], module, arguments[1:])
    return 0


def _info(*, as_json: bool, check: bool) -> int:
    flags = [flag for flag, on in (("--json", as_json), ("--check", check)) if on]
    return subprocess.run([sys.executable, "-m", "kdfast", *flags], check=False).returncode


def _bench(ops: list[str]) -> int:
    folder = Path(__file__).parents[1] / "bench"
    known = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    if not known:
        raise UserError(
            "the benchmarks are part of the source tree, not of the wheel: run kdfast bench from a checkout"
        )
    if unknown := [op for op in ops if op not in known]:
        raise UserError(f"there is no benchmark of {unknown[0]!r}; there are {', '.join(known)}")
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise UserError(
            "kdfast bench needs pytest-benchmark, which is not installed: pip install 'kdfast[bench]'"
        )
    files = [str(folder / f"bench_{op}.py") for op in ops or known]
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-only", *files]
    return subprocess.run(command, cwd=folder.parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
