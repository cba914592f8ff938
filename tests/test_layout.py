"""One op = one room: an op's name is its file's name in every folder."""

import ast
import re
from pathlib import Path

import pytest

import kdfast.functional as KF
import kdfast.nn

ROOT = Path(__file__).resolve().parents[1]
OPS = sorted(path.stem for path in (ROOT / "csrc").glob("*.h"))
ROOMS = (
    "csrc/{}.cpp",
    "csrc/cpu/{}.cpp",
    "csrc/cuda/{}.cu",
    "kdfast/ops/{}.py",
    "tests/test_{}.py",
    "bench/bench_{}.py",
)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("room", ROOMS)
def test_every_op_has_every_room(op, room):
    assert (ROOT / room.format(op)).exists()


def stems(folder: str, pattern: str) -> set[str]:
    return {path.stem for path in (ROOT / folder).glob(pattern)}


def test_no_room_without_an_op():
    shared = {"finish_pairs", "reduce_rows"}  # stages that ops share
    for folder, pattern in (("csrc", "*.cpp"), ("csrc/cpu", "*.cpp"), ("csrc/cuda", "*.cu")):
        assert stems(folder, pattern) - shared <= set(OPS), folder


@pytest.mark.parametrize("name", KF.__all__)
def test_every_function_has_its_definition_and_its_test(name):
    path = ROOT / "kdfast" / "ops" / f"{name}.py"
    assert path.exists(), f"{name} has no room in kdfast/ops"
    functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert {name, f"{name}_reference"} <= functions
    texts = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert any(f"KF.{name}(" in text or f"KF.{name}," in text for text in texts), f"{name} has no test"


def test_public_names_are_sorted_and_documented():
    for module in (KF, kdfast.nn):
        assert list(module.__all__) == sorted(module.__all__)
        for name in module.__all__:
            assert getattr(module, name).__doc__, name


def test_macros_live_in_common_or_launch():
    for path in (ROOT / "csrc").rglob("*"):
        if (
            path.suffix in (".h", ".cpp", ".cu", ".cuh")
            and path.parent.name != "common"
            and path.name != "launch.cuh"
        ):
            defined = [line for line in path.read_text().splitlines() if line.startswith("#define")]
            assert all(line.startswith("#define KD_") for line in defined), path


def test_make_test_interprets_every_triton_kernel():
    recipe = (ROOT / "Makefile").read_text().split("\ntest: build")[1].split("\n\n")[0]
    asked = set(re.findall(r"\w+", recipe))
    shared = dict.fromkeys(("bspline_basis", "kan_edge_stats", "kan_linear"), "triton_kan")  # a file of three
    ops = stems("triton_kernels", "*.py") & set(OPS)
    assert {shared.get(op, op) for op in ops} <= asked
