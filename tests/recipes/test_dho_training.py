"""DHO: batches of labelled and unlabelled rows, training steps, calibration."""

import pytest
import torch
from torch.utils.data import TensorDataset

from kdfast.recipes.dho import UNLABELED, DualHead, HeadedStudent, SingleHead
from kdfast.recipes.dho.batches import PairBatches, PartlyLabeled
from kdfast.recipes.dho.calibration import calibration_error, reliability
from kdfast.recipes.dho.teacher import Prepare
from kdfast.recipes.dho.training import DualDistilled, distiller, gradient_cosine


def test_unlabelled_labels_are_never_handed_out():
    data = TensorDataset(torch.arange(10.0), torch.arange(10))
    mixed = PartlyLabeled(data, [3, 7], [0, 1, 2])
    targets = [target for _, target, _ in (mixed[i] for i in range(len(mixed)))]
    assert targets == [3, 7, UNLABELED, UNLABELED, UNLABELED]
    assert [row for *_, row in (mixed[i] for i in range(5))] == [3, 7, 0, 1, 2]


def test_an_epoch_passes_over_the_unlabelled_rows_and_cycles_the_labelled():
    batches = list(PairBatches((4, 50), (4, 16), seed=1))
    assert len(batches) == 4 == len(PairBatches((4, 50), (4, 16)))
    assert all(sorted(batch[:4]) == [0, 1, 2, 3] and min(batch[4:]) >= 4 for batch in batches)
    assert len({index for batch in batches for index in batch[4:]}) == 50
    assert len(PairBatches((4, 50), (2, 16), pass_over="shorter")) == 2


def test_students_alone_get_the_same_labelled_batches_in_as_many_steps():
    both = PairBatches((20, 50), (8, 16), seed=3)
    alone = PairBatches((20, 50), (8, 16), seed=3, labels_only=True)
    assert [batch[:8] for batch in both] == list(alone)


def test_processes_share_a_batch():
    ranks = [list(PairBatches((8, 64), (4, 8), world=2, rank=rank, seed=5)) for rank in (0, 1)]
    for one, two in zip(*ranks, strict=True):
        assert not set(one) & set(two)
    assert len({index for batches in ranks for batch in batches for index in batch[4:]}) == 64


def test_epochs_differ_and_repeat():
    batches = PairBatches((20, 50), (8, 16), seed=3)
    first = list(batches)
    batches.set_epoch(1)
    assert list(batches) != first
    batches.set_epoch(0)
    assert list(batches) == first


def student(head=DualHead, width=8, **options):
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, width), torch.nn.ReLU())
    return HeadedStudent(backbone, head(width, 3), **options)


def test_overfits_one_batch():
    torch.manual_seed(0)
    d = distiller(student(width=32), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)))
    images, target = torch.randn(24, 3, 2, 2), torch.randint(3, (24,))
    target[12:] = UNLABELED
    optimizer = torch.optim.AdamW(d.parameters(), lr=0.02)
    first = d(images, target=target)
    for _ in range(150):
        optimizer.zero_grad()
        out = d(images, target=target)
        out.loss.backward()
        optimizer.step()
    assert out.loss < 0.1 * first.loss
    assert (out.output[0][:12].argmax(1) == target[:12]).all()
    assert (out.output[1].argmax(1) == out.teacher.argmax(1)).float().mean() > 0.9


def test_cosine_of_gradients():
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    unused = torch.nn.Parameter(torch.ones(1))
    assert gradient_cosine([w, unused], w.sum(), -w.sum()) == pytest.approx(-1)
    assert gradient_cosine([w, unused], w[0], w[1]) == pytest.approx(0)


def test_single_head_shares_what_two_heads_keep_apart():
    for head in (SingleHead, DualHead):
        a, b = student(head)(torch.randn(4, 3, 2, 2))
        assert (a is b) == (head is SingleHead)


def test_separate_batches_for_batch_norm():
    norm = torch.nn.BatchNorm1d(12)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), norm)
    split = HeadedStudent(backbone, DualHead(12, 3), split=4).train()
    split(torch.cat([torch.zeros(4, 3, 2, 2), torch.ones(8, 3, 2, 2)]))
    assert norm.num_batches_tracked == 2
    torch.testing.assert_close(norm.running_var, torch.full((12,), 0.81), msg="each half is constant")


def test_replayed_logits_are_the_teachers():
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images, target = torch.randn(6, 3, 2, 2), torch.tensor([0, 1, 2, *[UNLABELED] * 3])
    rows = torch.tensor([5, 0, 3, 1, 2, 4])
    stored = torch.empty(6, 3)
    stored[rows] = teacher(images).detach()
    losses = []
    for outputs in (None, stored):
        module = DualDistilled(distiller(student(), teacher), 3, None, outputs=outputs)
        losses.append(module.training_step((images, target, rows), 1))
    assert torch.equal(*losses)


def test_teachers_images():
    images = torch.rand(2, 1, 8, 8)
    prepare = Prepare(((0.2,), (0.4,)), ((0.5,) * 3, (0.25,) * 3), 8)
    found = prepare((images - 0.2) / 0.4)
    torch.testing.assert_close(found, ((images - 0.5) / 0.25).expand(-1, 3, -1, -1), rtol=1e-5, atol=1e-5)
    assert Prepare(((0.2,), (0.4,)), ((0.5,) * 3, (0.25,) * 3), 16)(images).shape == (2, 3, 16, 16)


def test_calibration():
    confident = torch.eye(4)[torch.arange(4).repeat(10)]
    target = torch.arange(4).repeat(10)
    assert calibration_error(confident, target) == pytest.approx(0)
    assert calibration_error(confident, (target + 1) % 4) == pytest.approx(1)
    half = torch.full((40, 2), 0.5) + torch.tensor([0.01, -0.01])
    rows = reliability(half, torch.arange(2).repeat(20))
    assert rows == [(pytest.approx(0.51), 0.5, 40)]
    assert calibration_error(half, torch.arange(2).repeat(20)) == pytest.approx(0.01, abs=1e-6)
