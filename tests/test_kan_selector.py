"""KANSelector: the four scores against the published vectors, scikit-learn's own checks, and bad input."""

import pickle

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn.datasets import load_breast_cancer, make_friedman1
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from waves import wave

from kdfast.nn import KAN
from kdfast.select import KANSelector, scores
from kdfast.select.training import task_loss

# net: outputs, grid_size, degree, targets.
NETS = {
    "A": (2, 2, 1, torch.tensor([0, 1, 0, 1, 1, 0, 1, 0, 0, 1])),
    "B": (2, 5, 3, torch.tensor([0, 1, 0, 1, 1, 0, 1, 0, 0, 1])),
    "C": (1, 2, 1, wave((10,), 1.0, 0.6)),
    "D": (3, 2, 1, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])),
}
LOSSES = {"A": 0.7364517237, "B": 0.666540787, "C": 0.6299167442, "D": 1.13666851}
SENSITIVITY = {  # of the paper's code, then with every class for itself
    "A": ((0.2072017628, 0.1346788506, 0.2534390091), (0.3536375892, 0.1680462404, 0.3117132139)),
    "B": ((0.5748330323, 0.3332143394, 0.3939530993), (1.031781106, 0.5838721685, 0.7291091285)),
    "C": ((0.1964619042, 0.09178527115, 0.1729855997), (0.1964619042, 0.09178527115, 0.1729855997)),
    "D": ((0.2883398306, 0.2096351316, 0.2070226138), (0.6065200435, 0.3249669706, 0.4394730544)),
}
KNOCKOUT = {  # raw, then the importances
    "A": ((0.01424489363, -0.02868700548, 0.01905352579), (0.4277948886, 0, 0.5722051114)),
    "B": ((0.0110608936, 0.02224626773, 0.006891682431), (0.2751545211, 0.5534056616, 0.1714398173)),
    "C": ((-0.001370146612, -0.09027788558, 0.009223156212), (0, 0, 1)),
    "D": ((0.01943441956, -0.01758594689, 0.009986262336), (0.6605699904, 0, 0.3394300096)),
}
SPLINES = {
    ("A", "coefficient", 1): (5.112577406, 2.264192748, 2.649152908),
    ("A", "coefficient", 2): (1.242450804, 0.6391601118, 0.7118853617),
    ("A", "activation", 1): (0.2676201185, 0.1747170383, 0.2472187559),
    ("A", "activation", 2): (0.3262450047, 0.2261007032, 0.3105594875),
    ("B", "coefficient", 1): (13.71162953, 6.085850793, 7.188203242),
    ("B", "coefficient", 2): (2.041614922, 1.04016306, 1.157379435),
    ("B", "activation", 1): (0.2674105553, 0.1772533757, 0.2395041892),
    ("B", "activation", 2): (0.3264358907, 0.2227343915, 0.3071528066),
}
X = wave((10, 3), 1.6, 0.2)


def network(name: str) -> KAN:
    outputs, grid_size, degree, _ = NETS[name]
    model = KAN([3, 7, outputs], grid_size=grid_size, degree=degree).double()
    knots = (torch.arange(grid_size + 2 * degree + 1).double() - degree) * 2 / grid_size - 1
    for n, (layer, (i, o)) in enumerate(zip(model, ((3, 7), (7, outputs)), strict=True)):
        layer.load_state_dict({
            "grid": knots.expand(i, -1), "spline_weight": wave((o, i, grid_size + degree), 0.5, 0.7 + n),
            "spline_scaler": wave((o, i), 0.8, 1.1 + n), "base_weight": wave((o, i), 0.6, 1.9 + n),
        })  # fmt: skip
    return model


def loss_of(name: str):
    loss = task_loss("regression" if name == "C" else "classification")
    return lambda outputs: loss(outputs, NETS[name][3])


def agree(got: torch.Tensor, expected: tuple[float, ...], rtol: float = 1e-8) -> None:
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=rtol, atol=1e-11)


@pytest.mark.parametrize("name", NETS)
def test_published_sensitivities_and_knockouts(name):
    model, loss = network(name), loss_of(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert loss(model(X)).item() == pytest.approx(LOSSES[name], rel=1e-8)
    agree(scores.sensitivity_score(model, X, signed=True), SENSITIVITY[name][0])
    agree(scores.sensitivity_score(model, X), SENSITIVITY[name][1])
    raw = scores.knockout_score(model, X, loss)
    agree(raw, KNOCKOUT[name][0], rtol=1e-7)
    agree(scores.normalized(raw), KNOCKOUT[name][1], rtol=1e-7)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "criterion", "order"), SPLINES)
def test_published_spline_scores(name, criterion, order):
    model = network(name)
    score = scores.coefficient_score(model, order) if criterion == "coefficient" else (
        scores.activation_score(model, X, order)
    )  # fmt: skip
    agree(score, SPLINES[name, criterion, order])


def test_losses_are_torchs():
    outputs, labels, numbers = torch.randn(4, 6, 3), torch.tensor([0, 1, 2, 0, 1, 2]), torch.randn(6)
    cross = torch.stack([F.cross_entropy(o, labels) for o in outputs])
    torch.testing.assert_close(task_loss("classification")(outputs, labels), cross)
    squares = torch.stack([F.mse_loss(o[:, 0], numbers) for o in outputs])
    torch.testing.assert_close(task_loss("regression")(outputs[..., :1], numbers), squares)


def test_a_knockout_in_pieces_is_the_same(monkeypatch):
    model, loss = network("D"), loss_of("D")
    whole = scores.knockout_score(model, X, loss)
    monkeypatch.setattr(scores, "_CHUNK_VALUES", 1)
    torch.testing.assert_close(scores.knockout_score(model, X, loss), whole)


@parametrize_with_checks([
    KANSelector(max_epochs=2),
    KANSelector("l2", "activation", "auto", scaling="minmax", max_epochs=2),
    KANSelector("si", n_features_to_select=1, scaling="standard", importance_on="train", max_epochs=2),
    KANSelector("ko", max_epochs=2, regularization=0.1),
])  # fmt: skip
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("method", ["l1", "l2", "si", "ko"])
def test_the_planted_features_are_found(method):
    """Friedman's first function: five of twenty features matter."""
    features, target = make_friedman1(400, 20, noise=0.5, random_state=1)
    selector = KANSelector(method, n_features_to_select=5, max_epochs=15, lr=0.01, random_state=0)
    kept = selector.fit(features, target).get_support()
    assert selector.task_ == "regression" and not hasattr(selector, "classes_")
    assert kept[:5].all() and kept.sum() == 5
    assert (np.argsort(selector.ranking_)[:5] < 5).all()
    assert selector.feature_importances_.sum() == pytest.approx(1)


def cancer() -> tuple[np.ndarray, np.ndarray]:
    return load_breast_cancer(return_X_y=True)


def test_one_seed_one_result_and_the_global_generators_rest():
    features, target = cancer()
    selector = KANSelector("ko", max_epochs=3, random_state=3)
    torch.manual_seed(0), np.random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = selector.fit(features, target).scores_
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    torch.manual_seed(1)
    again = selector.fit(features, target)
    assert (again.scores_ == first).all()
    assert (KANSelector("ko", max_epochs=3, random_state=4).fit(features, target).scores_ != first).any()
    copy = pickle.loads(pickle.dumps(again))
    assert (copy.transform(features) == again.transform(features)).all()


def test_in_a_pipeline_only_the_training_fold_counts():
    """Rows of the other folds, spoilt, change nothing of what is chosen."""
    features, target = cancer()
    train = np.arange(len(target)) % 5 != 0
    spoilt = np.where(train[:, None], features, 1e9)
    pipes = [make_pipeline(KANSelector("l1", max_epochs=3, random_state=0), LogisticRegression(max_iter=5000))
             for _ in range(2)]  # fmt: skip
    for pipe, rows in zip(pipes, (features, spoilt), strict=True):
        pipe.fit(rows[train], target[train])
    assert (pipes[0][0].scores_ == pipes[1][0].scores_).all()


def test_in_a_grid_search_and_as_the_estimator_of_select_from_model():
    features, target = cancer()
    pipe = make_pipeline(KANSelector(max_epochs=2, random_state=0), LogisticRegression(max_iter=5000))
    options = {"kanselector__method": ["l1", "ko"], "kanselector__n_features_to_select": [3, 0.5]}
    search = GridSearchCV(pipe, options, cv=2).fit(features / features.max(0), target)
    assert search.best_score_ > 0.8
    assert search.best_estimator_[0].get_support().sum() in (3, 15)
    chosen = SelectFromModel(KANSelector(max_epochs=2, random_state=0), max_features=4).fit(features, target)
    assert chosen.transform(features).shape[1] <= 4


def test_frames_keep_their_names():
    features, target = cancer()
    frame = pandas.DataFrame(features[:, :6], columns=list("abcdef"))
    selector = KANSelector(n_features_to_select=2, max_epochs=2, random_state=0).set_output(
        transform="pandas"
    )
    labels = np.where(target == 1, "benign", "malignant")
    kept = selector.fit_transform(frame, labels)
    assert list(kept.columns) == list(selector.get_feature_names_out()) and kept.shape[1] == 2
    assert list(selector.classes_) == ["benign", "malignant"]


@pytest.mark.parametrize(
    ("share", "kept"), [(0.1, 1), (0.3, 3), (1.0, 10), (3, 3), (0.31, 4), (np.int64(2), 2)]
)
def test_how_many_are_kept(share, kept):
    features = np.random.default_rng(0).normal(size=(20, 10))
    selector = KANSelector(n_features_to_select=share, max_epochs=1).fit(features, features[:, 0])
    assert selector.get_support().sum() == selector.n_features_ == kept


def test_when_no_feature_matters_equals_keep_the_order_of_columns():
    features = np.zeros((30, 4))
    selector = KANSelector("ko", n_features_to_select=2, max_epochs=2).fit(features, np.arange(30) % 2)
    assert np.isfinite(selector.feature_importances_).all()
    if not selector.feature_importances_.any():
        assert list(selector.ranking_) == [1, 2, 3, 4]


@pytest.mark.parametrize(("target", "task"), [
    (np.arange(100) % 3, "classification"),
    (np.arange(100.0) % 50, "regression"),
    (np.linspace(0, 1, 100), "regression"),
    (np.array(["a", "b"] * 50), "classification"),
    (np.array([str(i) for i in range(50)] * 2), "classification"),
    (np.arange(100) % 2 == 0, "classification"),
])  # fmt: skip
def test_the_task_is_told_from_the_target(target, task):
    features = np.random.default_rng(0).normal(size=(100, 3))
    assert KANSelector(max_epochs=1).fit(features, target).task_ == task


GOOD = np.random.default_rng(0).normal(size=(20, 3))
LABELS = np.arange(20) % 2


@pytest.mark.parametrize(("features", "target", "message"), [
    (np.where(np.eye(20, 3, -2) > 0, np.nan, GOOD), LABELS, "NaN"),
    (np.where(np.eye(20, 3, -2) > 0, np.inf, GOOD), LABELS, "infinity"),
    (GOOD, np.zeros(20), "at least two classes, got one"),
    (GOOD, np.full(20, np.nan), "NaN"),
    (GOOD[:1], LABELS[:1], "minimum of 2"),
    (GOOD, LABELS[:7], "inconsistent"),
    (GOOD.astype(complex), LABELS, "Complex"),
    (GOOD[:, 0], LABELS, "1D array"),
    (GOOD, None, "requires y"),
])  # fmt: skip
def test_bad_data_is_refused_in_scikit_learns_words(features, target, message):
    with pytest.raises(ValueError, match=message):
        KANSelector(max_epochs=1).fit(features, target)


def test_sparse_matrices_are_refused():
    with pytest.raises(TypeError, match="[Ss]parse"):
        KANSelector(max_epochs=1).fit(sparse.csr_matrix(GOOD), LABELS)


@pytest.mark.parametrize(("option", "value", "error"), [
    ("method", "l3", ValueError), ("criterion", "coef", ValueError), ("task", None, ValueError),
    ("n_features_to_select", 0, ValueError), ("n_features_to_select", 4, ValueError),
    ("n_features_to_select", 1.5, ValueError), ("n_features_to_select", "all", ValueError),
    ("n_features_to_select", None, TypeError), ("hidden", "3d", TypeError), ("hidden", 0, ValueError),
    ("grid_size", 0, ValueError), ("degree", 7, ValueError), ("degree", 1.0, TypeError),
    ("max_epochs", 0, ValueError), ("lr", 0, ValueError), ("lr", "fast", TypeError),
    ("batch_size", 2.5, TypeError), ("eval_fraction", 1.0, ValueError), ("regularization", -1, ValueError),
    ("importance_on", "test", ValueError), ("scaling", "robust", ValueError), ("device", "gpu", ValueError),
])  # fmt: skip
def test_bad_options_are_refused_by_name(option, value, error):
    with pytest.raises(error, match=option):
        KANSelector(**{option: value}).fit(GOOD, LABELS)
