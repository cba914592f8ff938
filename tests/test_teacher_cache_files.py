"""TeacherCache: its files, several processes at once, killed writers, torn files, a full disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from teacher_outputs import CLASSES, logits

from kdfast.distill import TeacherCache


def test_files_are_plain_safetensors(tmp_path) -> None:
    from safetensors.torch import load_file

    with TeacherCache(tmp_path, top_k=2) as cache:
        cache.put([7], logits(1), augmentation="none")
    (shard,) = tmp_path.glob("*.safetensors")
    tensors = load_file(shard)
    assert sorted(tensors) == ["indices", "keys", "log_mass", "log_probs"]
    assert (tensors["log_probs"].dtype, tensors["indices"].dtype) == (torch.float16, torch.uint16)
    assert bytes(tensors["keys"].tolist()) == b'[7,"none"]'
    assert json.loads((tmp_path / "manifest.json").read_text())["top_k"] == 2


def test_shards_are_written_when_full(tmp_path) -> None:
    cache = TeacherCache(tmp_path, shard_bytes=4 * CLASSES * 8)
    for step in range(6):
        cache.put(range(4 * step, 4 * step + 4), logits(4, seed=step), augmentation="none")
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    got = cache.get(range(23, -1, -1), augmentation="none")
    assert torch.equal(got.flip(0), torch.cat([logits(4, seed=step) for step in range(6)]))


def test_readers_see_what_others_commit(tmp_path) -> None:
    reader, writer = TeacherCache(tmp_path), TeacherCache(tmp_path)
    writer.put([0], logits(1), augmentation="none")
    assert (0, "none") not in reader
    writer.flush()
    assert torch.equal(reader.get([0], augmentation="none"), logits(1))


def test_pickled_to_a_worker_it_opens_the_folder(tmp_path) -> None:
    cache = TeacherCache(tmp_path, teacher="a", top_k=3)
    cache.put([0], logits(1), augmentation="none")
    cache.flush()
    twin = pickle.loads(pickle.dumps(cache))
    assert twin.teacher == "a" and torch.equal(
        *(c.get([0], augmentation="none").indices for c in (cache, twin))
    )


WRITER = """
import sys, torch
from kdfast.distill import TeacherCache
folder, rank, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cache = TeacherCache(folder, teacher="t", shard_bytes=1 << 30)
for step in range(int(sys.argv[4])):
    keys = [(rank, step, row) for row in range(rows)]
    values = torch.tensor([[rank, step, row] for row in range(rows)]).repeat(1, 1000)
    cache.put(keys, values, augmentation="none")
    cache.flush()
    print(step, flush=True)
"""


def start_writer(folder: Path, *arguments: int, code: str = WRITER) -> subprocess.Popen:
    """WRITER with rank, rows and steps, in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code, str(folder), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def check_whole(cache: TeacherCache, rank: int, steps: range, rows: int) -> None:
    for step in steps:
        got = cache.get([(rank, step, row) for row in range(rows)], augmentation="none")
        want = torch.tensor([[rank, step, row] for row in range(rows)]).repeat(1, 1000)
        assert torch.equal(got, want)


def test_several_writers_at_once(tmp_path) -> None:
    writers = [start_writer(tmp_path, rank, 4, 3) for rank in range(2)]
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    cache = TeacherCache(tmp_path, teacher="t")
    assert len(cache) == 2 * 3 * 4
    for rank in range(2):
        check_whole(cache, rank, range(3), 4)


def test_a_killed_writer_harms_nothing(tmp_path) -> None:
    """kill -9 while a shard of 7 MB is on its way to the disk; then again, into the same folder."""
    rows, committed = 300, {}
    for rank in range(2):
        writer = start_writer(tmp_path, rank, rows, 10000)
        assert writer.stdout.readline() == "0\n" and writer.stdout.readline() == "1\n"
        old = set(os.listdir(tmp_path))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if any(name.endswith(".tmp") for name in set(os.listdir(tmp_path)) - old):
                break
        writer.send_signal(signal.SIGKILL)
        committed[rank] = 2 + len(writer.communicate(timeout=60)[0].split())
        assert writer.returncode == -signal.SIGKILL
    cache = TeacherCache(tmp_path, teacher="t")
    for rank, steps in committed.items():
        check_whole(cache, rank, range(steps), rows)
    # A shard may have been published after its line was due; a part of one never is.
    assert len(cache) % rows == 0 and len(cache) >= sum(committed.values()) * rows
    cache.put(["more"], torch.ones(1, 3000, dtype=torch.int64), augmentation="none")
    cache.flush()
    assert ("more", "none") in TeacherCache(tmp_path)


def test_a_writer_killed_before_it_publishes_leaves_only_a_temporary_file(tmp_path) -> None:
    """The same at the worst moment: the shard is written in full, its rename is next."""
    code = WRITER.replace("import sys, torch", "import os, sys, torch").replace(
        "    cache.flush()",
        "    if step: os.replace = lambda *paths: os.kill(os.getpid(), 9)\n    cache.flush()",
    )
    writer = start_writer(tmp_path, 0, 4, 3, code=code)
    assert writer.communicate(timeout=120)[0] == "0\n" and writer.returncode == -signal.SIGKILL
    assert [name.endswith(".tmp") for name in os.listdir(tmp_path)].count(True) == 1
    cache = TeacherCache(tmp_path, teacher="t")
    check_whole(cache, 0, range(1), 4)
    assert len(cache) == 4


def test_a_torn_temporary_file_is_not_read_and_goes_away(tmp_path) -> None:
    with TeacherCache(tmp_path) as cache:
        cache.put([0], logits(1), augmentation="none")
    (shard,) = tmp_path.glob("*.safetensors")
    torn = tmp_path / ".0123.tmp"
    torn.write_bytes(shard.read_bytes()[:100])
    assert len(TeacherCache(tmp_path)) == 1 and torn.exists()
    os.utime(torn, (0, 0))
    TeacherCache(tmp_path)
    assert not torn.exists()


def test_a_broken_shard_is_named(tmp_path) -> None:
    TeacherCache(tmp_path)
    (tmp_path / "1-x.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(RuntimeError, match=r"1-x\.safetensors.*not a readable shard"):
        TeacherCache(tmp_path)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch) -> None:
    cache = TeacherCache(tmp_path)
    cache.put([0], logits(1), augmentation="none")
    cache.flush()
    cache.put([1], logits(1, seed=1), augmentation="none")

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", refuse)
        with pytest.raises(OSError, match=r"1 rows could not be written .*No space left.*wait in memory"):
            cache.flush()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    assert len(TeacherCache(tmp_path)) == 1
    cache.flush()
    assert torch.equal(TeacherCache(tmp_path).get([1], augmentation="none"), logits(1, seed=1))


def _put_in_child(cache: TeacherCache) -> None:
    cache.put(["child"], logits(1, seed=2), augmentation="none")
    cache.flush()


def test_a_forked_child_does_not_write_its_parents_rows(tmp_path) -> None:
    cache = TeacherCache(tmp_path)
    cache.put(["parent"], logits(1), augmentation="none")
    child = multiprocessing.get_context("fork").Process(target=_put_in_child, args=(cache,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert len(TeacherCache(tmp_path)) == 1 and ("child", "none") in cache
    cache.flush()
    assert len(TeacherCache(tmp_path)) == 2


def test_rows_that_wait_are_written_at_a_normal_exit(tmp_path) -> None:
    writer = start_writer(tmp_path, 0, 2, 2, code=WRITER.replace("    cache.flush()\n", ""))
    writer.communicate(timeout=120)
    assert writer.returncode == 0
    check_whole(TeacherCache(tmp_path), 0, range(2), 2)
