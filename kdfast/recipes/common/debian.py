"""Data sets that travel in Debian packages: fetched by apt-get, pinned by sha256, not installed."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from kdfast.recipes.common.data import DataUnavailable, cache_dir
from kdfast.recipes.common.errors import UserError, why


def fetch_debian(
    name: str, version: str, sha256: str, members: tuple[str, ...] | Callable[[str], bool]
) -> dict[str, bytes]:
    """Contents of files inside the package `name` = `version` (architecture all), cached as wheels are.

    Args:
        sha256: hex digest of the .deb file.
        members: paths inside the package, without a leading slash, or which paths to take.

    Raises:
        DataUnavailable: not in the cache, and apt-get or dpkg-deb cannot give it.
        UserError: the package is another file than the pinned one, or lacks a member.
    """
    path = cache_dir() / f"{name}_{version}_all.deb"
    if not path.is_file():
        _download(name, version, path)
    if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256:
        raise UserError(f"{path} has sha256 {digest}, not the pinned {sha256}; delete it")
    content = _run(["dpkg-deb", "--fsys-tarfile", str(path)], path.parent)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {entry.name.removeprefix("./"): entry for entry in archive if entry.isfile()}
        if callable(members):
            members = tuple(sorted(filter(members, files)))
        if missing := [member for member in members if member not in files]:
            raise UserError(f"{path} holds no file {missing[0]}")
        return {member: archive.extractfile(files[member]).read() for member in members}


def _download(name: str, version: str, path: Path) -> None:
    """Into a temporary folder of the cache, then renamed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            _run(["apt-get", "download", "-qq", f"{name}={version}"], Path(temporary))
            found = list(Path(temporary).glob("*.deb"))
            if not found:
                raise DataUnavailable(f"apt-get gave no file for {name} {version}")
            found[0].replace(path)
    except OSError as error:
        raise DataUnavailable(f"cannot keep {name} {version} in {path.parent}: {why(error)}") from error


def _run(command: list[str], folder: Path) -> bytes:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        raise DataUnavailable(f"{command[0]} is not on this machine, which is no Debian or Ubuntu") from None
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise DataUnavailable(f"{' '.join(command[:2])} failed: {reason}")
    return done.stdout
