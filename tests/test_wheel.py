"""One wheel, built as a user builds it: the same file computes on torch's CPU build and on its CUDA build."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALL = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index")
pytestmark = pytest.mark.slow

# Run where the wheel is installed; prints the torch version and what of kdfast is loaded.
COMPUTE = """
import pathlib, sys, torch, kdfast, kdfast.functional as KF
from kdfast import _build
home = pathlib.Path(kdfast.__file__).parent
assert str(home).startswith(sys.argv[1]), home
for dtype in (torch.float32, torch.bfloat16, torch.float64):
    student = torch.randn(64, 1000, dtype=dtype, requires_grad=True)
    teacher = torch.randn(64, 1000, dtype=dtype)
    loss = KF.kl_div(student, teacher, temperature=2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    wide = student.detach().double().requires_grad_()
    plain = 4 * torch.nn.functional.kl_div(
        (wide / 2).log_softmax(1), (teacher.double() / 2).softmax(1), reduction="batchmean")
    (truth,) = torch.autograd.grad(plain, wide)
    torch.testing.assert_close(loss.double(), plain, rtol=1e-5, atol=1e-6)
    tolerance = 4e-3 if dtype == torch.bfloat16 else 1e-5
    assert (gradient.double() - truth).norm() <= tolerance * truth.norm()
mapped = {line.split("/")[-1].strip() for line in open("/proc/self/maps") if str(home) in line}
print(torch.__version__, f"cuda={torch.version.cuda}", f"built={_build.CUDA or None}", *sorted(mapped))
"""


def run(*command, **options) -> str:
    words = [str(word) for word in command]
    options.setdefault("env", {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")})
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel that `pip wheel` makes of this tree; compiled objects of build/ are used again."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_the_name_says_where_it_runs(wheel, need):
    need.program("auditwheel")
    assert re.fullmatch(r"kdfast-[\d.]+-cp310-abi3-manylinux_2_\d+_x86_64\.whl", wheel.name)
    level = wheel.name.split("manylinux_")[1].split("_x86_64")[0]
    assert f"manylinux_{level}_x86_64" in run("auditwheel", "show", wheel).replace("\n", " ")


def test_everything_is_inside(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {"kdfast": "kdfast", "triton_kernels": "kdfast/triton_kernels"}
    for folder, installed in sources.items():
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{installed}/{path.relative_to(ROOT / folder)}" in names
    assert {"kdfast/_C.abi3.so", "kdfast/_build.py", "kdfast/py.typed"} <= names
    assert ("kdfast/libkdfast_cuda.so" in names) == (ROOT / "kdfast" / "libkdfast_cuda.so").exists()
    assert {name.split("/")[0] for name in names} <= {"kdfast", wheel.name.split("-cp310")[0] + ".dist-info"}


def test_computes_on_this_torch(wheel, tmp_path):
    """The CUDA library is loaded too, GPU or not, if it was built for the major version of torch's CUDA."""
    run(*INSTALL, "--target", tmp_path, wheel)
    path = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    printed = run(sys.executable, "-c", COMPUTE, tmp_path, env=path, cwd=tmp_path).split()
    cuda, built = (word.split("=")[1].split(".")[0] for word in printed[1:3])
    assert "_C.abi3.so" in printed
    assert ("libkdfast_cuda.so" in printed) == (cuda == built != "None")


def test_computes_on_the_oldest_cpu_build(wheel, need):
    """A user's environment with the CPU build of torch 2.13.0; kept in build/ for the next time."""
    home = ROOT / "build" / "torch-2.13.0+cpu"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        run(sys.executable, "-m", "venv", home)
        command = [python, "-m", "pip", "install", "-q", "torch==2.13.0+cpu", "numpy"]
        got = subprocess.run(command, capture_output=True, text=True, check=False)
        version = sysconfig.get_python_version()
        need.that(got.returncode == 0, f"pip finds no torch==2.13.0+cpu for Python {version}")
        (home / "complete").touch()
    run(python, *INSTALL[1:], "--force-reinstall", wheel)
    printed = run(python, "-c", COMPUTE, home, cwd=home)
    assert printed.startswith("2.13.0+cpu cuda=None")
    assert "_C.abi3.so" in printed and "libkdfast_cuda.so" not in printed
    run(python, "-m", "kdfast", cwd=home)


def test_the_source_distribution_can_be_built_from(tmp_path):
    run(sys.executable, "-m", "build", "-q", "--no-isolation", "--sdist", "-o", tmp_path, ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    inside = tmp_path / archive.name.removesuffix(".tar.gz")
    tracked = run("git", "-C", ROOT, "ls-files", "csrc", "kdfast", "triton_kernels", "CMakeLists.txt").split()
    assert [name for name in tracked if not (inside / name).exists()] == []
    assert not list(inside.rglob("*.so"))
