"""ND: the losses against their equations and the published numbers, the method's modules, the recipe."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import kdfast
import kdfast.functional as KF
from kdfast.cli import main
from kdfast.recipes import nd
from kdfast.recipes.common import models, network_parts
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.nd import deit, means, methods, presets, review
from kdfast.recipes.nd.recipe import Options


def s(shape, scale, phase):
    """The vectors' generator: scale sin(k + phase), k = 1, 2, ..., float64."""
    k = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float64)
    return (scale * torch.sin(k + phase)).reshape(shape)


def network(name: str, classes: int = 5, channels: int = 1) -> nn.Module:
    return models.create(models.parse("--student", name), classes=classes, channels=channels)


class Embedding(nn.Module):
    """A classifier whose logits and embedding are what it was given, for the published vectors."""

    def __init__(self, logits, embedding):
        super().__init__()
        self.logits, self.embedding = nn.Parameter(logits), nn.Parameter(embedding)
        self.features = nn.Identity()

    def forward(self, _):
        self.features(self.embedding)
        return self.logits


@pytest.mark.parametrize(
    ("epoch", "total", "gradient"),
    [(0, 2.16808832, 1.501249656), (5, 2.492891927, 1.906175691), (20, 3.467302748, 3.218995974),
     (40, 3.467302748, 3.218995974)],
)  # fmt: skip
def test_total_with_warmup(epoch, total, gradient):
    """Vector 7: kd 2.5, nd 1.5, T 4, warm-up 20; KD has no weight in the first epoch, ND and CE have all."""
    student = Embedding(s([4, 5], 2.0, 0.0), s([4, 6], 1.0, 0.0))
    teacher = Embedding(s([4, 5], 3.0, 0.5), s([4, 6], 1.1, 2.0))
    kl = kdfast.Term(kdfast.nn.KLDivLoss(temperature=4.0), weight=2.5, warmup=20)
    loss = kdfast.nn.NDLoss(s([5, 6], 1.0, 1.0))
    terms = [kl, kdfast.Term(loss, "features", "features", weight=1.5, target=True)]
    d = kdfast.Distiller(student, teacher, terms, nn.CrossEntropyLoss())
    d.set_progress(epoch)
    out = d(None, target=torch.arange(4))
    out.loss.backward()
    assert out.loss.item() == pytest.approx(total, rel=1e-9)
    assert student.logits.grad.abs().sum().item() == pytest.approx(gradient, rel=1e-8)
    assert student.embedding.grad.abs().sum().item() == pytest.approx(1.750711104, rel=1e-8)


@pytest.mark.parametrize("name", methods.METHODS)
def test_methods_have_the_terms_of_their_equations(name):
    torch.manual_seed(0)
    student, teacher = network("cifar_resnet8"), network("cifar_resnet8x4")
    x, y, c = torch.randn(6, 1, 16, 16), torch.arange(6) % 5, torch.rand(5, 256)
    w = methods.Weights(kd=2.0, nd=1.5, alpha=0.5, beta=3.0, temperature=4.0, warmup=0)
    d = methods.distiller(name, student, teacher, class_means=c, weights=w, example=x[:1]).eval()
    out = d(x, target=y)
    logits, t = out.output, out.teacher
    expected = {
        "kd": lambda: KF.kl_div(logits, t, temperature=4.0),
        "dkd": lambda: KF.dkd_loss(logits, t, y, alpha=0.5, beta=3.0, temperature=4.0),
        "dist": lambda: KF.dist_loss(logits, t, temperature=4.0),
    }
    base = name.removesuffix("++")
    assert set(out.terms) == ({base, "nd"} if name.endswith("++") else {base})
    if base in expected:
        torch.testing.assert_close(out.terms[base], expected[base]())
    total = F.cross_entropy(logits, y) + 2.0 * out.terms[base] + 1.5 * out.terms.get("nd", 0)
    torch.testing.assert_close(out.loss, total)


def test_nd_term_adapts_only_where_widths_differ():
    same = methods.nd_term(network("cifar_resnet8"), network("cifar_resnet14"), torch.rand(5, 64))
    other = methods.nd_term(network("cifar_resnet8"), network("cifar_resnet8x4"), torch.rand(5, 256))
    assert same.adapter is None and isinstance(other.adapter, nd.EmbeddingAdapter)
    assert other.adapter(torch.rand(3, 64)).shape == (3, 256)
    with pytest.raises(ValueError, match="256 features"):
        methods.nd_term(network("cifar_resnet8"), network("cifar_resnet8x4"), torch.rand(5, 64))


def test_review_fuses_from_deep_to_shallow():
    """Against the equations, level by level; HCL of every level; a gradient to every student map."""
    torch.manual_seed(0)
    ours, theirs = [(4, 8, 8), (6, 4, 4), (6, 1, 1)], [(5, 8, 8), (7, 2, 2), (3, 1, 1)]
    module = review.ReviewKD(ours, theirs, middle=4).eval()
    maps = [torch.randn(2, *shape, requires_grad=True) for shape in ours]
    wanted = [torch.randn(2, *shape) for shape in theirs]
    outputs = module.outputs(maps, [shape[1:] for shape in theirs])
    left = module.fusions[2].reduce(maps[2])
    torch.testing.assert_close(outputs[2], module.fusions[2].expand(left))
    level = module.fusions[1]
    x, left = level.reduce(maps[1]), F.interpolate(left, (4, 4), mode="nearest")
    z = level.attend(torch.cat([x, left], 1))
    x = x * z[:, 0].unsqueeze(1) + left * z[:, 1].unsqueeze(1)
    torch.testing.assert_close(outputs[1], level.expand(F.interpolate(x, (2, 2), mode="nearest")))
    total = module(maps, wanted)
    torch.testing.assert_close(total, sum(KF.hcl_loss(a, b) for a, b in zip(outputs, wanted, strict=True)))
    total.backward()
    assert all(x.grad.abs().sum() > 0 for x in maps)
    assert module.fusions[2].attend is None
    with pytest.raises(ValueError, match="3 levels and the teacher 2"):
        review.ReviewKD(ours, theirs[1:])


# ---- Class means -----------------------------------------------------------------------------------------


def test_class_means_are_of_the_classifiers_input(tmp_path):
    teacher = network("cifar_resnet8", classes=2)
    images, labels = torch.randn(10, 1, 8, 8), torch.arange(10) % 2
    path, _ = network_parts.expose_embedding(teacher)
    made = means.class_means(teacher, path, TensorDataset(images, labels), classes=2, batch_size=3)
    features = kdfast.FeatureTap(teacher.eval(), {"e": path})(images)[1]["e"]
    expected = torch.stack([features[labels == k].mean(0) for k in range(2)])
    torch.testing.assert_close(made.compute(), expected, rtol=1e-4, atol=1e-5)
    made.provenance = {"fingerprint": "one"}
    made.save(tmp_path / "means.safetensors")
    file = str(tmp_path / "means.safetensors")
    means.load_means(file, classes=2, dim=64, teacher="one")
    with pytest.raises(UserError, match="another teacher"):
        means.load_means(file, classes=2, dim=64, teacher="two")
    with pytest.raises(UserError, match="holds 2 classes of 64 features; the data has 3"):
        means.load_means(file, classes=3, dim=64, teacher="one")
    with pytest.raises(UserError, match="cannot be read"):
        means.load_means(str(tmp_path / "nowhere.json"), classes=3, dim=64, teacher="one")


# ---- DeiT ------------------------------------------------------------------------------------------------


def test_mixed_means_are_the_equation():
    c, labels, lam = s([10, 4], 1.0, 0.0), torch.tensor([1, 7, 3]), 0.3
    off, on = 0.1 / 10, 1 - 0.1 + 0.1 / 10
    smooth = torch.stack([(on - off) * c[y] + off * sum(c[j] for j in labels) for y in labels])
    expected = lam * smooth + (1 - lam) * torch.stack([smooth[2], smooth[1], smooth[0]])
    torch.testing.assert_close(deit.mixed_means(c, deit.Mixed(labels, lam)), expected)


@pytest.mark.parametrize("options", [{"cutmix": 0}, {"mixup": 0}, {"mixup": 0, "cutmix": 0}])
def test_mixup_says_its_share(options):
    np.random.seed(0)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16)
    mixed, target = deit.Mixup(**options)(images, torch.arange(4))
    share = target.lam * torch.arange(4.0) + (1 - target.lam) * torch.arange(4.0).flip(0)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), share)
    soft = target.soft(10, 0.1)
    torch.testing.assert_close(soft.sum(1), torch.ones(4))


def test_deit_has_two_tokens_and_their_losses():
    torch.manual_seed(0)
    student = models.create(
        models.parse("--student", "deit_tiny_distilled_patch16_224"), classes=5, size=32, depth=2
    )
    teacher = network("cifar_resnet8", channels=3)
    d = deit.deit_distiller(student, teacher, torch.rand(5, 64), nd=1.5)
    x, target = deit.Mixup()(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))
    out = d.train()(x, target=target)
    (cls, dist), t = out.output, out.teacher
    ce = F.cross_entropy(cls, target.soft(5, 0.1)), F.cross_entropy(dist, t.argmax(1))
    torch.testing.assert_close(out.loss, 0.5 * ce[0] + 0.5 * ce[1] + 1.5 * out.terms["nd"])
    out.loss.backward()
    with pytest.raises(ValueError, match="distillation token"):
        deit.deit_distiller(network("cifar_resnet8"), teacher, torch.rand(5, 64))


# ---- Presets, recipe -------------------------------------------------------------------------------------


def test_presets_are_the_published_ones():
    options = Options(preset="cifar100/resnet20-resnet56", method="dkd++", data="digits")
    assert (options.student, options.teacher) == ("cifar_resnet20", "cifar_resnet56")
    assert (options.epochs, options.lr, options.batch_size, options.optimizer) == (240, 0.1, 128, "sgd")
    weights = options.weights("dkd++")
    assert (weights.alpha, weights.beta, weights.nd, weights.warmup) == (2.5, 4.0, 3.5, 20)
    assert Options(preset="cifar100/resnet20-resnet56", kd_weight=7.0).weights("kd++").kd == 7.0
    assert Options(preset="imagenet/resnet18-resnet34").weights("kd++").temperature == 1.0
    for name, preset in presets.PRESETS.items():
        for role in (preset.student, preset.teacher):
            models.parse(name, role)


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--method", "kd+"], "--method"), (["--preset", "cifar"], "--preset"),
     (["--nd-weight", "-1"], "--nd-weight"),
     (["--method", "deit++,kd"], "runs alone"), (["--temperature", "0"], "--temperature")],
)  # fmt: skip
def test_bad_options_are_one_line(given, message, capsys):
    assert main(["distill", "nd", *given]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err


def test_overfits_one_batch():
    """Cross-entropy, KL and ND together fit a handful of images."""
    torch.manual_seed(0)
    student, teacher = network("cifar_resnet8"), network("cifar_wrn_16_2")
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10) % 5
    weights = methods.Weights(kd=0.0, nd=1.0, warmup=0)
    d = methods.distiller("kd++", student, teacher, class_means=torch.rand(5, 128), weights=weights).train()
    optimizer = torch.optim.AdamW([p for p in d.parameters() if p.requires_grad], 0.01)
    losses = []
    for _ in range(40):
        out = d(x, target=y)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append((F.cross_entropy(out.output, y).item(), out.terms["nd"].item()))
    assert losses[-1][0] < 0.05 and losses[-1][1] < losses[0][1] - 0.05


SMALL = [
    "--data", "digits", "--teacher", "cifar_wrn_16_2", "--student", "cifar_resnet8", "--teacher-epochs", "1",
    "--epochs", "2", "--seeds", "1", "--device", "cpu", "--threads", "1", "--progress", "none",
]  # fmt: skip


def test_run_and_resume_to_the_bit(tmp_path):
    """Resumed after the teacher, as a killed run is; the class means are read back."""
    straight = tmp_path / "straight"
    assert main(["distill", "nd", *SMALL, "--method", "kd++,reviewkd++", "--out", str(straight)]) == 0
    page = (straight / "report.html").read_text()
    assert "kd++" in page and "Norm and direction of the embeddings" in page
    stages = {json.loads(line)["stage"] for line in (straight / "metrics.jsonl").read_text().splitlines()}
    assert stages == {"teacher", "student-0", "kd++-0", "reviewkd++-0"}
    resumed = tmp_path / "resumed"
    (resumed / "checkpoint").mkdir(parents=True)
    for name in ("config.yaml", "class-means.safetensors", "checkpoint/teacher.ckpt"):
        (resumed / name).write_bytes((straight / name).read_bytes())
    assert main(["distill", "nd", "--resume", str(resumed)]) == 0
    assert (resumed / "student.safetensors").read_bytes() == (straight / "student.safetensors").read_bytes()


def test_teacher_in_lower_precision_serves_several_methods(tmp_path):
    """The first method casts it; stages and embeddings are still found, and it is kept in the cache."""
    given = [*SMALL, "--epochs", "1", "--method", "kd++,reviewkd++", "--no-baseline", "--label-share", "0.1"]
    given += ["--precision", "bf16-mixed", "--teacher-precision", "bfloat16", "--augment", "none"]
    given += ["--teacher-cache", str(tmp_path / "cache")]
    assert main(["distill", "nd", *given, "--out", str(tmp_path / "run")]) == 0


def test_a_vit_cannot_be_reviewed(tmp_path, capsys):
    given = [*SMALL, "--student", "vit_tiny_patch16_224", "--image-size", "16", "--teacher-epochs", "1"]
    assert (
        main(["distill", "nd", *given, "--method", "reviewkd", "--no-baseline", "--out", str(tmp_path / "a")])
        == 2
    )
    assert "needs CNNs" in capsys.readouterr().err
