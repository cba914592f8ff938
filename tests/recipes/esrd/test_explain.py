"""Explanations add up to what they explain, agree with closed forms, and rank what matters first."""

import numpy as np
import pytest
import torch
from torch import nn

from kdfast.recipes.esrd.explain import (
    Explanation,
    expected_gradients,
    explain_network,
    kan_curves,
    kan_importances,
    tree_shap,
)
from kdfast.recipes.esrd.models import RiskNetwork, Settings, make_model
from kdfast.recipes.esrd.models.students import KAN_RANGE, KANStudent


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "random_forest"])
def test_shapley_values_add_up_to_the_prediction(name, signal) -> None:
    model = make_model(name, signal.features).fit(signal.x, signal.y, signal.weight)
    found = tree_shap(model, signal.x[:50])
    total = found.values.sum(1) + found.base
    logits = model.logits(signal.x[:50])
    expected = logits if found.unit == "log odds" else 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(total, expected, atol=2e-4)
    assert found.unit == ("probability" if name == "random_forest" else "log odds")
    assert list(found.importance())[:2] != [] and list(found.importance())[0].startswith(("level", "marker"))


def test_explanations_survive_the_run_folder() -> None:
    values = np.array([[0.5, -2.0], [1.5, 1.0]])
    found = Explanation(values, 0.1, np.array([[np.nan, 1.0], [2.0, 3.0]]), ["a", "b"], "probability")
    again = Explanation.from_json(found.to_json())
    np.testing.assert_array_equal(again.values, found.values)
    np.testing.assert_array_equal(again.data, found.data)
    assert again.importance() == {"b": 1.5, "a": 1.0} and again.unit == "probability"


def test_expected_gradients_of_a_linear_function_are_exact() -> None:
    """Of f(z) = w z: w (z - mean of the background), whatever is drawn, if the background is drawn evenly."""
    draw = torch.Generator().manual_seed(0)
    weight, z = torch.randn(3, 2, generator=draw), torch.randn(4, 3, 2, generator=draw)
    background = torch.randn(5, 3, 2, generator=draw)
    found = expected_gradients(lambda p: (p * weight).sum((1, 2)), z, background, draws=20)
    torch.testing.assert_close(found, weight * (z - background.mean(0)))


def test_expected_gradients_are_complete(signal) -> None:
    """They sum to f(z) - E f(background), and find the last `level` and the ends of `marker`."""
    model = make_model(
        "gru", signal.features, settings=Settings(epochs=10, lr=1e-2), sizes={"hidden": 16, "layers": 1}
    ).fit(signal.x, signal.y)
    values, total = explain_network(
        model.network_, signal.x[:20], signal.x[200:300], signal.features, draws=400
    )
    logits = model.logits(signal.x[:20])
    base = model.logits(signal.x[200:300]).mean()
    assert total.base == pytest.approx(base, abs=1e-5)
    np.testing.assert_allclose(values.sum((1, 2)) + base, logits, atol=0.15 * logits.std())
    assert list(total.importance())[0] == "level"
    assert np.abs(values).mean(0)[:, 0].argmax() == 3  # its last step


def small_kan(task, trained=True) -> KANStudent:
    torch.manual_seed(0)
    student = KANStudent(task.features, 4)
    student.preparer.fit(task.x)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.03)
    x, y = torch.from_numpy(task.x), torch.from_numpy(task.y).float()
    for _ in range(60 if trained else 0):
        loss = nn.functional.binary_cross_entropy_with_logits(student(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student.eval()


def test_kan_importances_are_the_spread_of_its_curves(signal) -> None:
    student = small_kan(signal)
    found = kan_importances(student, signal.x)
    assert set(found) == set(student.summary.names) and list(found)[0] in ("level (last)", "marker (last)")
    rows = student.rows(torch.from_numpy(signal.x)).detach()
    i = student.summary.names.index("level (last)")
    alone = torch.zeros_like(rows)
    alone[:, i] = rows[:, i]
    with torch.no_grad():
        spread = (student.kan(alone) - student.kan(torch.zeros_like(rows))).std()
    assert found["level (last)"] == pytest.approx(spread.item(), rel=1e-4)


def test_kan_curves_sum_to_its_logit(signal) -> None:
    """One layer is a sum of curves: those of all inputs, read at a person's values, give the logit."""
    student = small_kan(signal)
    columns = len(student.summary.names)
    curves = kan_curves(student, signal.x, signal.features, top=columns, points=400)
    with torch.no_grad():
        rows = student.rows(torch.from_numpy(signal.x)).numpy()
        logit = student(torch.from_numpy(signal.x)).numpy()
        rest = student.kan(torch.zeros(1, columns)).item()
    owners = [*student.summary.last, *student.summary.mean]
    total, inside = np.full(len(rows), rest), np.ones(len(rows), bool)
    for curve in curves:
        i = student.summary.names.index(curve.name)
        mean, deviation = (float(b[owners[i]]) for b in (student.preparer.mean, student.preparer.deviation))
        value = rows[:, i] * KAN_RANGE * deviation + mean
        total += np.interp(value, curve.x, curve.y)
        inside &= (value >= curve.x[0]) & (value <= curve.x[-1])
    assert inside.mean() > 0.7
    np.testing.assert_allclose(total[inside], logit[inside], atol=5e-3)
    assert {c.name for c in curves if c.flag} == {"flag"} and curves[0].unit == "mg/dL"
    doubled = kan_curves(student, signal.x, signal.features, slope=2.0, top=1)[0]
    np.testing.assert_allclose(doubled.y[-1], 2 * kan_curves(student, signal.x, signal.features)[0].y[-1])


def test_a_deep_kan_has_no_curves(signal) -> None:
    student = KANStudent(signal.features, 4, hidden=3)
    student.preparer.fit(signal.x)
    with pytest.raises(ValueError, match="only a KAN of one layer is a sum of curves, this one has 2"):
        kan_curves(student, signal.x, signal.features)
    assert len(kan_importances(student, signal.x)) == len(student.summary.names)


def test_explanations_leave_the_network_alone(signal) -> None:
    network = RiskNetwork("gru", signal.features, 4, hidden=8, layers=1)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    explain_network(network, signal.x[:3], signal.x[5:10], signal.features, draws=10)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
