"""KD-OCT: losses and metrics against the published numbers, learning rates, selection and averaging."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from kdfast.recipes.kd_oct import losses, measure, metrics, rates, select


def s(shape, scale, phase):
    """The vectors' generator: scale sin(k + phase), k = 1, 2, ..., float64."""
    k = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float64)
    return (scale * torch.sin(k + phase)).reshape(shape)


class Given(nn.Module):
    """A network whose logits are what it was given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, _):
        return self.logits


# ---- Losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "classes", "target", "value", "gradient"),
    [(8, 3, None, 0.7318522101, 0.7165261275), (1, 3, [2], 1.036486472, 0.4301996833),
     (6, 4, None, 1.074266878, 0.7043228379)],
)  # fmt: skip
def test_distillation_loss_is_the_published_one(rows, classes, target, value, gradient):
    """Vector 1. The cross-entropy and KL run in float32: six digits."""
    student, teacher = Given(s([rows, classes], 2.0, 0.0)), Given(s([rows, classes], 3.0, 0.5))
    y = torch.arange(rows) % classes if target is None else torch.tensor(target)
    out = losses.distiller(student, teacher)(None, target=y)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(value, rel=1e-6)
    assert student.logits.grad.abs().sum().item() == pytest.approx(gradient, rel=1e-6)


@pytest.mark.parametrize(
    ("mode", "weight", "value", "gradient"),
    [("kdoct", (0.6, 1.1, 1.9), 1.18130772, 1.65772946),
     ("standard", (0.6, 1.1, 1.9), 1.057381292, 1.681633904),
     ("kdoct", (1.0, 1.0, 1.0), 0.8933729429, 1.473043131),
     ("standard", (1.0, 1.0, 1.0), 0.8933729429, 1.473043131)],
)  # fmt: skip
def test_focal_loss_in_both_forms(mode, weight, value, gradient):
    """Vector 2."""
    x = s([8, 3], 2.0, 0.25).requires_grad_()
    w = torch.tensor(weight, dtype=torch.float64)
    loss = losses.focal_loss(x, torch.arange(8) % 3, mode=mode, weight=w)
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-8)
    assert x.grad.abs().sum().item() == pytest.approx(gradient, rel=1e-8)


def best_call(chance, mode, weight):
    """The class that the expected focal loss's minimum calls, where the classes have `chance`."""
    z = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        each = (losses.focal_loss(z, torch.tensor([c]), mode=mode, weight=weight) for c in range(3))
        loss = sum(p * value for p, value in zip(chance, each, strict=True))
        loss.backward()
        return loss

    optimizer.step(closure)
    return int(z.argmax())


def test_weights_inside_the_focus_move_decisions():
    """Why elpv is trained without weights: with its counts and the published form, a cell that is normal with
    a chance of 80 % is called mild.
    """
    weight = losses.balanced_weights(torch.arange(3).repeat_interleave(torch.tensor([1508, 401, 715])), 3)
    likely = (0.8, 0.1, 0.1)
    assert best_call(likely, "kdoct", weight.double()) == 1
    assert best_call(likely, "standard", weight.double()) == 0
    assert best_call((0.7, 0.2, 0.1), "standard", weight.double()) == 1
    assert best_call((0.57, 0.15, 0.28), "standard", None) == 0


def test_weighted_cross_entropy_is_a_mean_over_the_batch():
    z, y, w = s([6, 3], 2.0, 0.1), torch.arange(6) % 3, torch.tensor([0.6, 1.1, 1.9])
    expected = -(w[y] * z.log_softmax(1)[torch.arange(6), y]).mean() * 0.3
    assert losses.ScaledCrossEntropy(0.3, w)(z, y).item() == pytest.approx(expected.item(), rel=1e-6)
    d = losses.distiller(Given(z), Given(z.clone()), weight=w)
    assert d(None, target=y).loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_balanced_weights():
    """Vector 3."""
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([5667, 3742, 3240]))
    expected = [0.7440150579, 1.126759309, 1.301337449]
    assert losses.balanced_weights(labels, 3).tolist() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="no image of class 3"):
        losses.balanced_weights(labels, 4)


# ---- Metrics, rates --------------------------------------------------------------------------------------

STUDENT = [
    [[1107, 24, 0], [103, 651, 54], [1, 32, 632]], [[1067, 18, 0], [76, 593, 3], [6, 63, 587]],
    [[1057, 40, 0], [30, 631, 32], [2, 22, 627]], [[1030, 133, 3], [64, 701, 8], [1, 17, 606]],
    [[1127, 61, 0], [115, 676, 5], [7, 38, 599]],
]  # fmt: skip
TEACHER = [
    [[986, 75, 1], [36, 749, 11], [0, 17, 628]], [[1049, 59, 0], [50, 660, 8], [2, 32, 585]],
    [[1087, 142, 0], [77, 553, 11], [2, 32, 615]], [[1102, 43, 0], [45, 752, 25], [2, 13, 610]],
    [[948, 173, 2], [57, 704, 4], [1, 21, 680]],
]  # fmt: skip


@pytest.mark.parametrize(
    ("matrices", "means", "stds"),
    [(STUDENT, (92.46463293, 92.14744555, 96.03965972), (1.364374365, 1.292722801, 0.7789873637)),
     (TEACHER, (92.57016638, 92.9016064, 96.22051323), (2.318086778, 2.082835124, 1.139976094))],
)  # fmt: skip
def test_metrics_of_the_published_matrices(matrices, means, stds):
    """Vector 4: macro one-vs-rest, mean and population standard deviation."""
    names = ("accuracy", "sensitivity", "specificity")
    found = metrics.summary([metrics.of_matrix(np.array(matrix)) for matrix in matrices], names)
    assert [100 * found[name][0] for name in names] == pytest.approx(means, rel=1e-9)
    assert [100 * found[name][1] for name in names] == pytest.approx(stds, rel=1e-9)


def test_fold_metrics_of_known_probabilities():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    found = metrics.fold_metrics(probabilities, np.array([0, 0, 1, 1]))
    assert found["matrix"] == [[2, 0], [1, 1]] and found["auc"] == 1.0 and found["accuracy"] == 0.75
    assert found["ece"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.7) / 4)


def test_rates_by_epoch():
    """Vector 5."""
    teacher = [rates.rate(e, warmup=10, epochs=150) for e in (0, 9, 10, 80, 149)]
    assert teacher == pytest.approx([0.1, 1, 1, 0.5005, 0.001125756646], rel=1e-9)
    student = [rates.rate(e, warmup=5, epochs=100) for e in (0, 4, 5, 52, 99)]
    assert student == pytest.approx([0.2, 1, 1, 0.5087587054, 0.001273097958], rel=1e-9)
    averaging = [rates.averaging_rate(e, start=100, share=0.1, before=0.3) for e in (100, 105, 110, 140)]
    assert averaging == pytest.approx([0.3, 0.2, 0.1, 0.1])


# ---- Selection, averaging --------------------------------------------------------------------------------


def test_selection_keeps_the_best_and_averages_from_its_start():
    network = nn.Linear(1, 1, bias=False)
    chosen = select.Selection(network, smaller=True, swa_start=2)
    for epoch, (value, weight) in enumerate([(3.0, 1.0), (1.0, 2.0), (1.0, 4.0), (2.0, 8.0)]):
        nn.init.constant_(network.weight, weight)
        chosen.update(network, torch.tensor(value), epoch)
    assert chosen.best.weight.item() == 2.0  # the first of two equal ones
    assert int(chosen.waited) == 2
    assert chosen.averaged([], "cpu").weight.item() == 6.0  # of epochs 2 and 3
    assert not any(parameter.requires_grad for parameter in chosen.parameters())
    fresh = select.Selection(network, smaller=True, swa_start=9)
    assert fresh.averaged([], "cpu") is None
    fresh = select.Selection(network, smaller=True, swa_start=2)
    fresh.load_state_dict(chosen.state_dict())
    assert fresh.score.item() == 1.0 and fresh.averaged([], "cpu").weight.item() == 6.0


def test_average_has_batch_statistics_of_its_own():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    chosen = select.Selection(network, smaller=False, swa_start=0)
    chosen.update(network, torch.tensor(0.5), 0)
    x = torch.randn(64, 2) + 3
    averaged = chosen.averaged([(x, None)], "cpu")
    torch.testing.assert_close(averaged[1].running_mean, network[0](x).mean(0).detach())


def test_overfits_one_batch():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(27, 16), nn.ReLU(), nn.Linear(16, 3))
    teacher = copy.deepcopy(student)
    d = losses.distiller(student, teacher, ce=1.0, kl=0.0)
    x, y = torch.randn(6, 3, 3, 3), torch.arange(6) % 3
    optimizer = torch.optim.AdamW(student.parameters(), 0.02)
    for _ in range(80):
        loss = d(x, target=y).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_costs_are_measured():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    found = measure.costs(network, torch.rand(1, 3, 8, 8), device="cpu", rounds=3)
    assert found["parameters"] == 3 * 4 * 9 + 4 + 144 * 3 + 3
    assert found["multiply_adds"] == 36 * 27 * 4 + 144 * 3
    assert found["p50_ms_1"] <= found["p95_ms_1"] and found["images_per_second"] > 0
