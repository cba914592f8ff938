"""The wheel. CMake compiles (CMakeLists.txt); this file puts the results into the package and names it.

Environment: KDFAST_CUDA_ARCHS (such as sm_90; `off` leaves CUDA out), KDFAST_SANITIZE (such as
address,undefined), KDFAST_BUILD_DIR (default build/cmake), MAX_JOBS (compilers at a time).
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILT = ("_C.abi3.so", "libkdfast_cuda.so", "_build.py")


def torch_folder() -> Path | None:
    """Torch's package folder. Its headers and libraries are all that is needed, so it is never imported.

    pip's build isolation hides the interpreter's own packages from import, not from reading: a torch there
    serves, and pip need not fetch gigabytes of it for the build.
    """
    spec = find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    beside = Path(sysconfig.get_path("platlib")) / "torch"
    return beside if (beside / "include" / "torch" / "csrc" / "stable" / "library.h").exists() else None


def cmake_program() -> str:
    """The cmake of Python's package, if there: it is new enough, and the one that pip's isolation brings."""
    try:
        from cmake import CMAKE_BIN_DIR
    except ImportError:
        return "cmake"
    return os.path.join(CMAKE_BIN_DIR, "cmake")


def put_in_place(built: Path, package: Path) -> None:
    """By renaming, so that a process that has an old library open keeps it whole."""
    package.mkdir(parents=True, exist_ok=True)
    for name in BUILT:
        if (built / name).exists():
            shutil.copy2(built / name, package / f"{name}.new")
            os.replace(package / f"{name}.new", package / name)
        else:  # of an earlier build
            (package / name).unlink(missing_ok=True)


class CMakeBuild(build_ext):
    """Builds with CMake and installs into the package: the source tree's own if editable or in place."""

    def run(self) -> None:
        build = Path(os.environ.get("KDFAST_BUILD_DIR", ROOT / "build" / "cmake"))
        options = [f"-DPython_EXECUTABLE={sys.executable}", f"-DKDFAST_TORCH={torch_folder() or ''}"]
        options.append(f"-DKDFAST_SANITIZE={os.environ.get('KDFAST_SANITIZE', '')}")
        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        cmake = cmake_program()
        beside_python = os.path.dirname(sys.executable)  # ninja, where the environment is not activated
        environment = os.environ | {"PATH": os.pathsep.join([os.environ["PATH"], beside_python])}
        in_place = self.inplace or self.editable_mode
        package_root = ROOT if in_place else Path(self.build_lib).resolve()
        for command in (
            ["--log-level=NOTICE", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options],
            ["--build", str(build), *jobs],
            ["--install", str(build), "--prefix", str(build / "install"), "--strip"],
        ):
            if subprocess.run([cmake, *command], env=environment).returncode:
                sys.exit("kdfast: the build failed; the reason is above")
        put_in_place(build / "install" / "kdfast", package_root / "kdfast")

    def get_outputs(self) -> list[str]:
        folder = (ROOT if self.inplace or self.editable_mode else Path(self.build_lib)) / "kdfast"
        return [str(folder / name) for name in BUILT if (folder / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}  # editable: the results are in the source tree already


class ManylinuxWheel(bdist_wheel):
    """Names the wheel after the oldest glibc that its libraries run on, as auditwheel finds it."""

    def run(self) -> None:
        stale = self.get_finalized_command("build").build_lib  # may hold modules that were removed since
        shutil.rmtree(stale, ignore_errors=True)
        super().run()
        if not sys.platform.startswith("linux"):
            return
        if shutil.which("auditwheel") is None or shutil.which("patchelf") is None:
            print("kdfast: auditwheel and patchelf are not both here; the wheel keeps its plain linux tag")
            return
        command, version, path = self.distribution.dist_files.pop()
        # torch's own libraries, and the sanitizers' runtimes, of which a process can have but one
        theirs = ("libtorch*", "libc10*", "libasan*", "libubsan*")
        excluded = [word for name in theirs for word in ("--exclude", name)]
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["auditwheel", "repair", *excluded, "-w", folder, path], check=True)
            (wheel,) = Path(folder).glob("*.whl")
            os.unlink(path)
            path = shutil.move(wheel, os.path.dirname(path))
        self.distribution.dist_files.append((command, version, path))


setup(
    packages=[*find_packages(include=["kdfast", "kdfast.*"]), "kdfast.triton_kernels"],
    package_dir={"kdfast.triton_kernels": "triton_kernels"},
    ext_modules=[Extension("kdfast._C", [], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": ManylinuxWheel},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    setup_requires=[] if torch_folder() else ["torch>=2.11"],
)
