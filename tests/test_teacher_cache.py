"""TeacherCache: what comes back is what was put, under its own key alone, whatever happens to writers."""

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
from torch import nn

from kdfast.distill import TeacherCache, TopK
from kdfast.distill.cache_settings import fingerprint

CLASSES = 50


def logits(rows: int, classes: int = CLASSES, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def test_dense_outputs_come_back_exactly(tmp_path) -> None:
    values = logits(5)
    with TeacherCache(tmp_path / "cache") as cache:
        assert cache.put(range(5), values, augmentation="none") == 5
        torch.testing.assert_close(
            cache.get([3, 0, 3], augmentation="none"), values[[3, 0, 3]], rtol=0, atol=0
        )
    again = TeacherCache(tmp_path / "cache")
    assert len(again) == 5 and again.top_k is None
    torch.testing.assert_close(again.get([4, 1], augmentation="none"), values[[4, 1]], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8])
def test_dtypes_and_shapes(tmp_path, dtype) -> None:
    values = {"p3": torch.randint(0, 9, (4, 2, 3, 3)).to(dtype), "": torch.randn(4)}
    with TeacherCache(tmp_path) as cache:
        cache.put(torch.arange(4), values, augmentation=0)
    out = TeacherCache(tmp_path).get([2, 1], augmentation=0)
    assert out.keys() == values.keys()
    for name, value in values.items():
        assert out[name].dtype == value.dtype
        assert torch.equal(out[name], value[[2, 1]])


def test_dense_at_half_precision(tmp_path) -> None:
    values = {"a": logits(3), "n": torch.arange(3)}
    with TeacherCache(tmp_path, dtype=torch.float16) as cache:
        cache.put(["a", "c", "b"], values, augmentation="x")
        out = cache.get(["a", "b"], augmentation="x")
    assert out["a"].dtype == torch.float16 and out["n"].dtype == torch.int64
    assert TeacherCache(tmp_path).dtype == torch.float16


def test_top_k(tmp_path) -> None:
    values, temperature = logits(6).reshape(2, 3, CLASSES), 2.0
    with TeacherCache(tmp_path, top_k=4, temperature=temperature) as cache:
        cache.put(["a", "b"], values, augmentation="none")
    out = TeacherCache(tmp_path).get(["b", "a"], augmentation="none")
    want, indices = (values / temperature).log_softmax(-1)[[1, 0]].topk(4)
    assert isinstance(out, TopK) and out.log_probs.dtype == torch.float32 and out.indices.dtype == torch.int64
    assert torch.equal(out.indices, indices)
    torch.testing.assert_close(out.log_probs, want, rtol=2**-10, atol=2e-3)
    # Rounding to float16 may not move probability between the top k and the tail.
    torch.testing.assert_close(out.log_probs.exp().sum(-1), want.exp().sum(-1), rtol=1e-6, atol=0)


def test_the_tail_of_a_confident_teacher_survives(tmp_path) -> None:
    values = torch.zeros(1, CLASSES, dtype=torch.float64)
    values[0, 7] = 20.0
    with TeacherCache(tmp_path, top_k=3) as cache:
        cache.put([0], values, augmentation="none")
        log_mass = torch.logsumexp(cache.get([0], augmentation="none").log_probs.double(), -1)
    tail = -torch.expm1(log_mass)
    torch.testing.assert_close(tail, values.softmax(-1)[:, 0] * (CLASSES - 3), rtol=0.1, atol=0)


@pytest.mark.parametrize("classes", [2**16, 2**16 + 1])
def test_class_indices_of_large_vocabularies(tmp_path, classes) -> None:
    values = torch.zeros(1, classes)
    values[0, -1] = 5.0
    with TeacherCache(tmp_path, top_k=1) as cache:
        cache.put([0], values, augmentation="none")
    assert TeacherCache(tmp_path).get([0], augmentation="none").indices.item() == classes - 1


def test_ready_top_k_and_impossible_classes(tmp_path) -> None:
    values = logits(3)
    values[0, 2:] = -torch.inf
    values[1] = -torch.inf
    top = TopK(*values[2:].log_softmax(-1).topk(4))
    with TeacherCache(tmp_path, top_k=4) as cache:
        cache.put([0, 1], values[:2], augmentation="none")
        cache.flush()
        cache.put([2], top, augmentation="none")
        out = cache.get([0, 1, 2], augmentation="none")
    assert out.log_probs[0].isneginf().tolist() == [False, False, True, True]
    torch.testing.assert_close(out.log_probs[0, :2].exp().sum(), torch.tensor(1.0))
    assert out.log_probs[1].isneginf().all()
    assert torch.equal(out.indices[2], top.indices[0])


def test_topk_kl_div_takes_it(tmp_path) -> None:
    import kdfast.functional as KF

    teacher, student = logits(4), logits(4, seed=1).requires_grad_()
    with TeacherCache(tmp_path, top_k=8, temperature=2.0, dtype=torch.float32) as cache:
        soft = cache.get_or_put(range(4), lambda todo: teacher[todo], augmentation="none")
    loss = KF.topk_kl_div(student, *soft, temperature=2.0)
    exact = KF.topk_kl_div(student, *(teacher / 2).log_softmax(-1).topk(8), temperature=2.0)
    torch.testing.assert_close(loss, exact)
    loss.backward()


def test_the_size_of_64_of_32000_classes(tmp_path) -> None:
    rows = 64
    values = logits(rows, 32000)
    with TeacherCache(tmp_path, top_k=64) as cache:
        cache.put(range(rows), values, augmentation="none")
        cache.flush()
        stats = cache.stats()
    assert stats["raw_bytes"] == values.nbytes and stats["rows"] == rows
    assert stats["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    print(f"top-64 of 32000: {stats['bytes'] / rows:.0f} bytes a row, 1/{stats['ratio']:.0f} of float32")
    assert stats["ratio"] > 400


# ---- keys ----


def test_a_view_is_never_served_for_another(tmp_path) -> None:
    with TeacherCache(tmp_path) as cache:
        cache.put([0, 1], logits(2), augmentation="none")
        cache.put([0, 1], logits(2, seed=1), augmentation="flip")
        with pytest.raises(KeyError, match="lacks 2 of 2 rows"):
            cache.get([0, 1], augmentation="crop")
        assert torch.equal(cache.get([0, 1], augmentation="flip"), logits(2, seed=1))
        assert torch.equal(cache.get([0, 1], augmentation=["flip", "none"])[1], logits(2)[1])
        with pytest.raises(TypeError, match="augmentation"):
            cache.get([0])
        with pytest.raises(TypeError, match="augmentation must hold"):
            cache.get([0], augmentation=None)


def test_keys_of_different_types_are_different(tmp_path) -> None:
    keys = [1, "1", (1,), (1, "1"), True, 1.5, 'quote"\n', "\u2028 \U0001f600"]
    with TeacherCache(tmp_path) as cache:
        cache.put(keys, torch.arange(8), augmentation=("crop", 3))
    cache = TeacherCache(tmp_path)
    for at, key in enumerate(keys):
        assert cache.get([key], augmentation=("crop", 3)).item() == at
    assert (1, ("crop", 3)) in cache and (2, ("crop", 3)) not in cache
    assert cache.missing([1, 2, 3], augmentation=("crop", 3)) == [1, 2]


def test_arrays_of_keys_and_random_views(tmp_path) -> None:
    cache = TeacherCache(tmp_path)
    ids, seeds = torch.tensor([5, 6, 7]), torch.tensor([10, 11, 12])
    cache.put(ids, logits(3), augmentation=seeds)
    assert torch.equal(cache.get(ids.flip(0).numpy(), augmentation=[12, 11, 10]), logits(3).flip(0))
    assert cache.missing(ids, augmentation=[10, 10, 12]) == [1]


def test_missing_rows_are_counted(tmp_path) -> None:
    cache = TeacherCache(tmp_path)
    cache.put(range(3), logits(3), augmentation="none")
    with pytest.raises(KeyError, match=r"lacks 7 of 10 rows.*\[3,\"none\"\], .*\.\.\."):
        cache.get(range(10), augmentation="none")


def test_the_first_row_of_a_key_stays(tmp_path) -> None:
    cache = TeacherCache(tmp_path)
    assert cache.put([0, 1, 0], torch.tensor([10, 11, 12]), augmentation="none") == 2
    cache.flush()
    assert cache.put([1, 2], torch.tensor([21, 22]), augmentation="none") == 1
    assert cache.get([0, 1, 2], augmentation="none").tolist() == [10, 11, 22]
    cache.flush()
    assert TeacherCache(tmp_path).get([0, 1, 2], augmentation="none").tolist() == [10, 11, 22]


def test_get_or_put(tmp_path) -> None:
    asked = []

    def compute(todo: list[int]) -> torch.Tensor:
        asked.append(todo)
        return logits(6)[todo]

    cache = TeacherCache(tmp_path, dtype=torch.float16)
    first = cache.get_or_put([0, 1, 2], compute, augmentation="none")
    second = cache.get_or_put([0, 1, 2], compute, augmentation="none")
    assert asked == [[0, 1, 2]] and torch.equal(first, second)
    cache.get_or_put([2, 5], lambda todo: logits(2)[todo], augmentation=["none", "flip"])
    assert len(cache) == 4 and cache.missing([2, 5], augmentation=["none", "flip"]) == []


def test_later_writes_to_the_given_tensor_do_not_reach_the_cache(tmp_path) -> None:
    cache = TeacherCache(tmp_path)
    values = torch.zeros(2, 3)
    cache.put([0, 1], values, augmentation="none")
    values.fill_(1)
    cache.get([0, 1], augmentation="none").fill_(2)
    assert not cache.get([0, 1], augmentation="none").any()
    cache.flush()
    cache.get([0, 1], augmentation="none").fill_(3)
    assert not cache.get([0, 1], augmentation="none").any()


def test_rows_of_different_shapes(tmp_path) -> None:
    with TeacherCache(tmp_path) as cache:
        cache.put([0, 1], torch.ones(2, 5), augmentation="none")
        cache.put([2], torch.ones(1, 7), augmentation="none")
    cache = TeacherCache(tmp_path)
    assert cache.get([2], augmentation="none").shape == (1, 7)
    with pytest.raises(ValueError, match="differ in shape"):
        cache.get([0, 2], augmentation="none")


# ---- settings ----


@pytest.mark.parametrize(
    "option, other",
    [
        ("teacher", "b"),
        ("temperature", 2.0),
        ("top_k", 5),
        ("dtype", torch.float32),
        ("teacher", nn.Linear(2, 2)),
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path, option, other) -> None:
    options = {"teacher": "a", "temperature": 4.0, "top_k": 3, "dtype": torch.float16}
    TeacherCache(tmp_path, **options)
    TeacherCache(tmp_path, **options)
    TeacherCache(tmp_path)
    with pytest.raises(ValueError, match=f"was written with {option}=.* was given"):
        TeacherCache(tmp_path, **{**options, option: other})


def test_teachers_are_told_apart_by_their_weights(tmp_path) -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    TeacherCache(tmp_path, teacher=one)
    with pytest.raises(ValueError, match="teacher='Linear@sha256"):
        TeacherCache(tmp_path, teacher=two)
    two.load_state_dict(one.state_dict())
    assert TeacherCache(tmp_path, teacher=two).teacher == fingerprint(one)
    assert fingerprint(one) != fingerprint(nn.Linear(3, 3).bfloat16())
    with pytest.raises(ValueError):
        TeacherCache(tmp_path, teacher=two.bfloat16())


def test_an_unnamed_teacher_is_not_taken_for_a_named_one(tmp_path) -> None:
    TeacherCache(tmp_path)
    with pytest.raises(ValueError, match="teacher=None"):
        TeacherCache(tmp_path, teacher="a")


@pytest.mark.parametrize(
    "options, error",
    [
        ({"top_k": 0}, ValueError),
        ({"top_k": 2.0}, ValueError),
        ({"temperature": 2.0}, ValueError),
        ({"top_k": 2, "temperature": 0.0}, ValueError),
        ({"top_k": 2, "temperature": float("nan")}, ValueError),
        ({"dtype": torch.int8}, TypeError),
        ({"teacher": 3}, TypeError),
        ({"shard_bytes": 0}, ValueError),
        ({"shard_bytes": "64M"}, TypeError),
    ],
)
def test_impossible_settings(tmp_path, options, error) -> None:
    with pytest.raises(error):
        TeacherCache(tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()


def test_folders_that_are_not_caches(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a TeacherCache"):
        TeacherCache(tmp_path)
    for text in ("{", "[]", json.dumps({"format": "other", "version": 1})):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json"):
            TeacherCache(tmp_path)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ((range(3), torch.zeros(2, 4)), ValueError),
        ((range(2), torch.tensor(1.0)), ValueError),
        (("ab", torch.zeros(2, 4)), TypeError),
        ((5, torch.zeros(2, 4)), TypeError),
        (([0, object()], torch.zeros(2, 4)), TypeError),
        ((range(2), [0, 1]), TypeError),
        ((range(2), {}), TypeError),
    ],
)
def test_bad_puts(tmp_path, arguments, error) -> None:
    with pytest.raises(error):
        TeacherCache(tmp_path).put(*arguments, augmentation="none")


@pytest.mark.parametrize(
    "outputs, error",
    [
        (torch.zeros(2, 2), ValueError),
        (torch.zeros(2, 9, dtype=torch.int64), TypeError),
        ({"logits": torch.zeros(2, 9)}, TypeError),
        (TopK(torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64)), ValueError),
    ],
)
def test_bad_top_k_puts(tmp_path, outputs, error) -> None:
    with pytest.raises(error):
        TeacherCache(tmp_path, top_k=3).put([0, 1], outputs, augmentation="none")


def test_an_augmentation_list_of_the_wrong_length(tmp_path) -> None:
    with pytest.raises(ValueError, match="augmentation is a list of 3 for 2 keys"):
        TeacherCache(tmp_path).put([0, 1], torch.zeros(2), augmentation=["a", "b", "c"])


# ---- files, processes, accidents ----


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


def test_as_the_teacher_of_a_distiller(tmp_path) -> None:
    from kdfast.distill import Distiller, Term

    torch.manual_seed(0)
    student, teacher, x = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(5, 4)
    cache = TeacherCache(tmp_path, teacher=teacher)
    live, replayed = (
        Distiller(student, teacher, [Term(nn.MSELoss())]),
        Distiller(student, None, [Term(nn.MSELoss())]),
    )
    cache.put(range(5), live(x).teacher, augmentation="none")
    torch.testing.assert_close(
        replayed(x, replay={"": cache.get(range(5), augmentation="none")}).loss, live(x).loss
    )
