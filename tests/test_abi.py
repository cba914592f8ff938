"""The compiled libraries promise no more than the stable ABIs, and the baseline runs on an old processor."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kdfast

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(kdfast.__file__).parent
LIBRARIES = sorted(PACKAGE.glob("*.so"))
LEVELS = ("baseline", "avx2", "avx512")
COMPUTE = """
import torch, kdfast.functional as KF
student = torch.linspace(-3, 3, 3000).sin().view(3, 1000).requires_grad_()
teacher = torch.linspace(-5, 5, 3000).cos().view(3, 1000)
loss = KF.kl_div(student, teacher)
loss.backward()
ours = student.grad.clone()
student.grad = None
plain = torch.nn.functional.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
plain.backward()
torch.testing.assert_close(loss, plain)
torch.testing.assert_close(ours, student.grad)
print("computed on", torch.backends.cpu.get_cpu_capability())
"""


def output(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_only_the_stable_abi_of_torch(need):
    need.module("torch_abi_audit")
    audit = "import sys; from torch_abi_audit.cli import main; sys.exit(main(sys.argv[1:]))"
    for library in LIBRARIES:
        report = output(sys.executable, "-c", audit, "--check", "torch", "-v", str(library))
        assert "Torch ABI:   STABLE" in report, report
        assert "Min torch:   2.11.0" in report, report


def test_only_the_limited_api_of_python(need):
    need.module("abi3audit")
    library = str(PACKAGE / "_C.abi3.so")
    arguments = ["--report", "--assume-minimum-abi3", "3.10", library]
    report = json.loads(output(sys.executable, "-m", "abi3audit", *arguments))
    result = report["specs"][library]["object"]["result"]
    assert result["non_abi3_symbols"] == [] and result["future_abi3_objects"] == {}, result


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_nothing_is_needed_but_torch_and_the_system(library, need):
    need.program("readelf")
    dynamic = output("readelf", "-d", str(library))
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", dynamic))
    system = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "ld-linux-x86-64.so.2"}
    torch = {"libtorch_cpu.so"} | ({"libtorch_cuda.so"} if "cuda" in library.name else set())
    assert needed - system == torch
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_nothing_is_exported_but_the_module(library, need):
    need.program("nm")
    exported = [line.split()[-1] for line in output("nm", "-D", "--defined-only", str(library)).splitlines()]
    assert exported == (["PyInit__C"] if library.name.startswith("_C") else [])


@pytest.fixture
def objects(level, need) -> list[Path]:
    """What the kernels of csrc/cpu were compiled to for this level."""
    folder = ROOT / "build" / "cmake" / "CMakeFiles" / f"kd_cpu_{level}.dir"
    need.that(folder.exists(), "the object files are not under build/cmake: run make build")
    return sorted(folder.rglob("*.o"))


@pytest.mark.parametrize("level", LEVELS)
def test_no_symbol_of_a_level_can_replace_anothers(level, objects, need):
    """The linker keeps one of several weak symbols of a name: an AVX-512 one would crash older processors."""
    need.program("nm")
    for path in objects:
        symbols = [line.split() for line in output("nm", "--defined-only", str(path)).splitlines()]
        assert not [name for *_, kind, name in symbols if kind in "VvWwu"]
        assert not [name for *_, kind, name in symbols if kind in "TDBR" and level not in name]


@pytest.mark.parametrize(("level", "forbidden"), [("baseline", "%[yz]mm"), ("avx2", "%zmm")])
def test_a_level_keeps_to_its_registers(level, forbidden, objects, need):
    need.program("objdump")
    for path in objects:
        code = output("objdump", "-d", "--no-show-raw-insn", str(path))
        assert re.search(forbidden, code) is None, path.name


@pytest.mark.slow
@pytest.mark.parametrize(("processor", "capability"), [("Nehalem", "DEFAULT"), ("Haswell", "AVX2")])
def test_runs_on_an_older_processor(processor, capability, need, monkeypatch):
    """Emulated, as another process: 2008's SSE4.2 takes the baseline, 2013's takes AVX2."""
    need.program("qemu-x86_64")
    monkeypatch.delenv("KDFAST_CPU_LEVEL", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_CORETYPE", processor.upper())  # numpy's OpenBLAS misreads the emulated one
    printed = output("qemu-x86_64", "-cpu", processor, sys.executable, "-c", COMPUTE)
    assert f"computed on {capability}" in printed
