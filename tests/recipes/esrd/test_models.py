"""Every model fits, learns and repeats itself; what networks are made of; imputation without look-ahead."""

import numpy as np
import pytest
import torch
from torch import nn

import kdfast.functional as KF
from kdfast.recipes.esrd.evaluation import auroc, cross_fit
from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.models import (
    GRIDS,
    MODELS,
    TABULAR,
    Preparer,
    RiskNetwork,
    Settings,
    make_model,
    training,
)
from kdfast.recipes.esrd.models.imputation import ChainedImputer
from kdfast.recipes.esrd.models.preparer import CLIP
from kdfast.recipes.esrd.models.summary import summarise
from kdfast.recipes.esrd.models.training import RiskTraining, samples, two_logits

SIZES = {"hidden": 16, "layers": 1, "dropout": 0.1}
QUICK = Settings(epochs=8, lr=1e-2)


def fitted(name, task, rows=slice(None), **settings):
    sizes = None if name in TABULAR else SIZES
    model = make_model(name, task.features, settings=Settings(epochs=8, lr=1e-2, **settings), sizes=sizes)
    return model.fit(task.x[rows], task.y[rows], task.weight[rows])


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns(name, signal) -> None:
    train, test = np.arange(280), np.arange(280, 400)
    logits = fitted(name, signal, train).logits(signal.x[test])
    assert logits.shape == (120,) and logits.dtype == np.float64 and np.isfinite(logits).all()
    assert auroc(signal.y[test], logits) > 0.75


@pytest.mark.parametrize("name", ["gru", "xgboost", "random_forest"])
def test_the_same_seed_gives_the_same_model(name, signal) -> None:
    first, second = (fitted(name, signal).logits(signal.x) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["tcn", "gru", "lstm", "rnn"])
def test_a_causal_encoder_reads_no_step_twice_ahead(name, signal) -> None:
    """The output at the last step must depend on every earlier one, and not on the padding after them."""
    torch.manual_seed(0)
    network = RiskNetwork(name, signal.features, 4, hidden=16, layers=2, dropout=0.0).eval()
    z = torch.randn(3, 4, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(network.head(network.encoder(z)).sum(), z)
    assert (slope.abs().sum((0, 2)) > 0).all()


def test_the_papers_network_has_the_published_size() -> None:
    """At 36 features and width 128: encoder 565,248 parameters both ways, 217,088 one way, head 41,217."""
    features = [Feature(str(i), "clinical") for i in range(36)]

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    both, one = (RiskNetwork(kind, features, 8) for kind in ("bilstm", "lstm"))
    assert size(both.encoder) == 565_248 and size(both.head) == 41_217 and size(one.encoder) == 217_088


def test_focal_and_weighted_losses(signal) -> None:
    """Vector C of the specification; and focal loss is kdfast's own."""
    z, y = 2 * torch.sin(torch.arange(1.0, 9)), torch.tensor([0, 0, 1, 0, 0, 0, 1, 0])
    for weight, expected in ((1.0, 0.9398531634), (3.0, 1.139849162)):
        module = RiskTraining(nn.Identity(), Settings(), weight)
        assert module._task(z, y).mean().item() == pytest.approx(expected, abs=1e-6)
    focal = RiskTraining(nn.Identity(), Settings(imbalance="focal"), 3.0)._task(z, y)
    p = torch.sigmoid(torch.where(y == 1, z, -z))
    torch.testing.assert_close(focal, (1 - p) ** 2 * -p.log())
    assert auroc(signal.y, fitted("gru", signal, imbalance="focal").logits(signal.x)) > 0.8


def test_distillation_loss_is_the_sum_it_says() -> None:
    """Cross-entropy and T^2 KL, each a mean over the weights, from the fused op and in parts."""
    draw = torch.Generator().manual_seed(0)
    z, t = torch.randn(6, generator=draw), torch.randn(6, generator=draw)
    y, weight = torch.tensor([0, 1, 0, 1, 1, 0]), torch.tensor([1.0, 2, 0, 1, 3, 1])
    settings = Settings(alpha=0.3, temperature=2.0, imbalance="none")
    terms = RiskTraining(nn.Identity(), settings, 1.0)._terms(z, y, weight, t)
    ce = nn.functional.binary_cross_entropy_with_logits(z, y.float(), reduction="none")
    ps, pt = torch.sigmoid(z / 2), torch.sigmoid(t / 2)
    kl = 4 * (pt * (pt / ps).log() + (1 - pt) * ((1 - pt) / (1 - ps)).log())
    torch.testing.assert_close(terms["task"], (weight * ce).sum() / weight.sum())
    torch.testing.assert_close(terms["kl"], (weight * kl).sum() / weight.sum())
    apart = RiskTraining(nn.Identity(), Settings(alpha=0.3, temperature=2.0), 1.0)._terms(z, y, weight, t)
    torch.testing.assert_close(apart["kl"], terms["kl"])
    assert KF.kl_div(two_logits(z), two_logits(z)).item() == pytest.approx(0, abs=1e-7)


def test_class_weights_do_not_spoil_the_risks(signal) -> None:
    """Weighted training shifts logits; the calibration of cross-fitting takes the shift back."""
    data = signal.x, signal.y, signal.weight, np.arange(400)
    for name in ("gru", "logistic", "xgboost"):
        settings = Settings(epochs=8, lr=1e-2)
        sizes = None if name in TABULAR else SIZES

        def build(name=name, settings=settings, sizes=sizes):
            return make_model(name, signal.features, settings=settings, sizes=sizes)

        found = cross_fit(*data, build, 3, 0)
        p = 1 / (1 + np.exp(-found.crossed))
        assert signal.y.sum() / p.sum() == pytest.approx(1, abs=0.03)


def test_preparer_carries_forward_then_back_then_fills() -> None:
    nan = np.nan
    features = [Feature("plain", "clinical"), Feature("skewed", "clinical", skewed=True)]
    x = np.array(
        [[[nan, 0], [2, nan], [nan, 9]], [[4, nan], [nan, nan], [6, nan]]], dtype=np.float32
    )  # [people, steps, features]
    preparer = Preparer(features).fit(x)
    z = preparer(torch.from_numpy(x)) * preparer.deviation + preparer.mean
    middle = np.log1p(0)  # torch's lower median of log(1 + {0, 9})
    expected = [[[2, 0], [2, 0], [2, np.log(10)]], [[4, middle], [4, middle], [6, middle]]]
    torch.testing.assert_close(z, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=1e-5)
    far = torch.full((1, 3, 2), 1e6)
    assert preparer(far).abs().max() == CLIP


def test_preparer_learns_from_training_people_only(signal) -> None:
    preparer = Preparer(signal.features).fit(signal.x[:100])
    before = {k: v.clone() for k, v in preparer.state_dict().items()}
    preparer(torch.from_numpy(signal.x[100:] * 50))
    assert all(torch.equal(before[k], v) for k, v in preparer.state_dict().items())


def test_a_feature_that_nobody_has_is_harmless(signal) -> None:
    x = signal.x.copy()
    x[:, :, 2] = np.nan
    for imputation in ("median", "mice"):
        z = Preparer(signal.features, imputation=imputation).fit(x)(torch.from_numpy(x))
        assert torch.isfinite(z).all() and (z[:, :, 2] == 0).all()
    for name in ("logistic", "random_forest", "xgboost"):
        model = make_model(name, signal.features).fit(x, signal.y)
        assert np.isfinite(model.logits(x)).all()


def test_chained_equations_are_scikit_learns(signal) -> None:
    """The module that travels with a network gives what IterativeImputer gives, also for new people."""
    x = signal.x.copy()
    x[:, :, 1] = np.where(np.isnan(x[:, :, 1]), np.nan, 0.8 * np.nan_to_num(x[:, :, 0]) + 0.1 * x[:, :, 1])
    x[:150, :, 1] = np.nan  # never measured: nothing to carry
    preparer = Preparer(signal.features, imputation="mice").fit(x[50:])
    carried = (preparer._carry(preparer._log(torch.from_numpy(x))) - preparer.mean) / preparer.deviation
    theirs = ChainedImputer().fit(carried[50:].flatten(0, 1).double().numpy())
    expected = theirs.transform(carried[:50].flatten(0, 1).double().numpy())
    found = preparer(torch.from_numpy(x[:50])).flatten(0, 1)
    np.testing.assert_allclose(found, np.clip(expected, -CLIP, CLIP), atol=1e-5)
    level = carried[:50, :, 0].flatten()
    here = ~torch.isnan(level)
    assert np.corrcoef(found[here, 1], level[here])[0, 1] > 0.9  # better than one median for all


@pytest.mark.parametrize("name", ["logistic", "xgboost", "gru"])
def test_models_with_chained_equations_learn(name, signal) -> None:
    model = fitted(name, signal, np.arange(280), imputation="mice")
    assert auroc(signal.y[280:], model.logits(signal.x[280:])) > 0.75


def test_summaries_by_hand() -> None:
    nan = np.nan
    features = [Feature("lab", "clinical"), Feature("n_drug", "claims"), Feature("f", "claims", flag=True)]
    x = np.array([[[1, 2, 0], [nan, 4, 0], [3, 0, 1], [nan, 2, 1]]], dtype=np.float32)
    table, names = summarise(x, features)
    assert names == ["lab (last)", "lab (mean)", "lab (slope)", "n_drug (mean)", "f"]
    np.testing.assert_allclose(table, [[3, 2, 2 / 0.5, 2, 1]])  # 2 units in two quarters: 4 a year


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f: make_model("perceptron", f), "model must be one of logistic"),
        (lambda f: RiskNetwork("perceptron", f, 4), "kind must be one of mlp"),
        (lambda f: Preparer(f, imputation="zero"), "imputation must be one of median, mice"),
    ],
)
def test_unknown_names(call, message, signal) -> None:
    with pytest.raises(ValueError, match=message):
        call(signal.features)


def test_samples_carry_weight_and_teacher(signal) -> None:
    x, y, weight, teacher = samples(signal.x[:5], signal.y[:5])[2]
    assert x.shape == (4, 4) and y.dtype == torch.int64 and weight == 1 and teacher == 0


def test_early_stopping_takes_the_best_weights_and_no_test_people(signal, monkeypatch) -> None:
    """Far too many epochs at far too high a rate: it stops, and holds the epoch of the lowest loss."""
    made = []
    real = training.BestWeights
    monkeypatch.setattr(training, "BestWeights", lambda patience: made.append(real(patience)) or made[-1])
    settings = Settings(epochs=60, lr=3e-2, patience=3)
    model = make_model("mlp", signal.features, settings=settings, sizes=SIZES)
    model.fit(signal.x[:280], signal.y[:280], signal.weight[:280])
    (stop,) = made
    assert 0 < stop.stopped_epoch < 59 and stop.wait_count == 3
    held, (x, y, *_) = model._hold_out(signal.x[:280], signal.y[:280], signal.weight[:280], None)
    assert len(held) == 40 and len(x) == len(y) == 240
    module = RiskTraining(model.network_, settings, training.positive_weight(y)).eval()
    with torch.no_grad():
        again = [module._task(model.network_(b[0][None]), b[1][None]).item() for b in held]
    assert np.mean(again) == pytest.approx(stop.best_score.item(), rel=1e-4)
    assert auroc(signal.y[280:], model.logits(signal.x[280:])) > 0.75


@pytest.mark.parametrize("name", MODELS)
def test_the_grids_hold_settings_that_the_models_take(name, signal) -> None:
    sizes = {} if name in TABULAR else SIZES
    assert len(GRIDS[name]) > 1
    for params in GRIDS[name]:
        model = make_model(name, signal.features, params, sizes=sizes)
        if name not in TABULAR:
            assert model.settings.epochs == params["epochs"] and model.sizes == SIZES
            continue
        chosen = model.fit(signal.x, signal.y).estimator_.get_params()
        (key, value), *_ = params.items()
        assert value in [v for k, v in chosen.items() if k.split("__")[-1] == key]
