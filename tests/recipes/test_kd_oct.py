"""KD-OCT: published vectors, folds that do not leak, layouts, selection and averaging, the whole run."""

import copy
import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from torch import nn

from kdfast.cli import main
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.kd_oct import folds as fold_tools
from kdfast.recipes.kd_oct import losses, measure, metrics, oct_data, options, select, synthetic, views


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
    teacher = [options.rate(e, warmup=10, epochs=150) for e in (0, 9, 10, 80, 149)]
    assert teacher == pytest.approx([0.1, 1, 1, 0.5005, 0.001125756646], rel=1e-9)
    student = [options.rate(e, warmup=5, epochs=100) for e in (0, 4, 5, 52, 99)]
    assert student == pytest.approx([0.2, 1, 1, 0.5087587054, 0.001273097958], rel=1e-9)
    averaging = [options.averaging_rate(e, start=100, share=0.1, before=0.3) for e in (100, 105, 110, 140)]
    assert averaging == pytest.approx([0.3, 0.2, 0.1, 0.1])


# ---- Folds -----------------------------------------------------------------------------------------------


def cohort(patients=60, scans=5):
    """Labels and patients, ids restarting in every class as NEH's do, images in no order."""
    draw = np.random.default_rng(0)
    rows = [
        (label, f"{label}/{number}")
        for label in range(3)
        for number in range(patients // 3)
        for _ in range(scans)
    ]
    rows = [rows[i] for i in draw.permutation(len(rows))]
    return [label for label, _ in rows], [patient for _, patient in rows]


def test_no_patient_is_in_two_parts_and_each_is_tested_once():
    labels, patients = cohort()
    made = fold_tools.patient_folds(labels, patients)
    assert made == fold_tools.patient_folds(labels, patients)
    fold_tools.check_folds(made, labels, patients, ("a", "b", "c"))
    for fold in made:
        people = [{patients[row] for row in part} for part in fold]
        assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
        assert [len(each) for each in people] == [38, 10, 12]  # 64 : 16 : 20
    tested = [patients[row] for fold in made for row in fold.test]
    assert len(tested) == len(labels) and set(tested) == set(patients)


def test_the_published_procedure_leaks_and_ours_does_not():
    """Labels from a sorted groupby beside ids in file order: teacher's and student's folds differ."""
    labels, patients = cohort()
    mode = dict(zip(patients, labels, strict=True))
    order = list(dict.fromkeys(patients))  # .unique(): file order
    misaligned = [mode[patient] for patient in sorted(order)]  # groupby(): sorted
    split = StratifiedKFold(5, shuffle=True, random_state=43)
    teacher = [{order[i] for i in train} for train, _ in split.split(order, misaligned)]
    student = [
        {order[i] for i in test} for _, test in split.split(order, [mode[patient] for patient in order])
    ]
    assert sum(len(seen & tested) for seen, tested in zip(teacher, student, strict=True)) > 10
    ours = fold_tools.patient_folds(labels, patients)
    assert not any({patients[r] for r in fold.train} & {patients[r] for r in fold.test} for fold in ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda f: [fold_tools.Fold([*f[0].train, f[0].test[0]], *f[0][1:]), *f[1:]], "is in train and test"),
     (lambda f: [fold_tools.Fold([*f[0].train, f[0].validation[0]], *f[0][1:]), *f[1:]], "and validation"),
     (lambda f: [f[0], f[0]], "is tested in two folds")],
)  # fmt: skip
def test_leaks_are_refused(change, message):
    labels, patients = cohort()
    made = change(fold_tools.patient_folds(labels, patients))
    with pytest.raises(UserError, match=message):
        fold_tools.check_folds(made, labels, patients, ("a", "b", "c"))


def test_missing_classes_and_few_patients():
    labels, patients = cohort()
    made = fold_tools.patient_folds(labels, patients)
    with pytest.raises(UserError, match="fold 0: its train part has no image of class d"):
        fold_tools.check_folds(made, labels, patients, ("a", "b", "c", "d"))
    with pytest.raises(UserError, match=r"class 2 has 1 patients; 5 are needed"):
        fold_tools.patient_folds([0] * 9 + [1] * 9 + [2], [f"p{i}" for i in range(19)])


# ---- Data ------------------------------------------------------------------------------------------------


def picture(path, shade=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30), shade, np.uint8)).save(path)


@pytest.fixture
def neh(tmp_path):
    """Six patients of two scans each; one scan has a label that is not its patient's."""
    root = tmp_path / "NEH"
    rows = []
    for label in ("NORMAL", "DRUSEN", "CNV"):
        for patient in (1, 2):
            for scan in (1, 2):
                place = f"{label}/{patient}/{scan}_{label}.jpg"
                picture(root / place)
                rows.append([patient, label, "OD", place, label])
    rows[-1][-1] = "normal"
    with open(root / "data_information.csv", "w", newline="") as file:
        csv.writer(file).writerows([["Patient ID", "Class", "Eye", "Directory", "Label"], *rows])
    return root


def test_neh_layout(neh):
    found = oct_data.load(str(neh))
    assert found.classes == ("normal", "drusen", "cnv") and len(found.names) == 11
    assert sorted(set(found.patients)) == [
        f"{label}/{i}" for label in ("cnv", "drusen", "normal") for i in (1, 2)
    ]
    assert found.labels.count(2) == 3 and found.read(0).shape == (3, 20, 30)


def test_neh_errors(neh):
    table = (neh / "data_information.csv").read_text()
    (neh / "data_information.csv").write_text(table.replace("DRUSEN,OD", "DRUSE,OD", 1))
    with pytest.raises(UserError, match="line 6: label 'DRUSE' is unknown"):
        oct_data.load(str(neh))
    (neh / "data_information.csv").write_text(table.replace("1_CNV", "9_CNV", 1))
    with pytest.raises(UserError, match="there is no file"):
        oct_data.load(str(neh))
    (neh / "data_information.csv").write_text(table.replace("Patient ID", "Person"))
    with pytest.raises(UserError, match="no column Patient ID"):
        oct_data.load(str(neh))


def test_unreadable_scan_is_named_or_left_out(neh):
    (neh / "CNV/1/1_CNV.jpg").write_bytes(b"no image")
    found = oct_data.load(str(neh))
    row = found.names.index("CNV/1/1_CNV.jpg")
    with pytest.raises(UserError, match="CNV/1/1_CNV.jpg cannot be read"):
        oct_data.View(found, [row], views.plain(16))[0]
    found = oct_data.load(str(neh), skip_bad=True)
    assert found.bad == ["CNV/1/1_CNV.jpg"] and len(found.names) == 10
    assert all(found.read(row).shape == (3, 20, 30) for row in range(10))


def test_ucsd_layout_drops_test_patients_from_train(tmp_path):
    for label in oct_data.UCSD_CLASSES:
        for patient in (1, 2, 3):
            picture(tmp_path / "train" / label / f"{label}-{patient}-1.jpeg")
        picture(tmp_path / "test" / label / f"{label}-3-9.jpeg")
    found = oct_data.load(str(tmp_path))
    assert len(found.rows()) == 8 and len(found.extra) == 4
    assert not {found.patients[row] for row in found.rows()} & {found.patients[row] for row in found.extra}
    picture(tmp_path / "train" / "CNV" / "scan.jpeg")
    with pytest.raises(UserError, match="CLASS-PATIENT-NUMBER"):
        oct_data.load(str(tmp_path))
    picture(tmp_path / "train" / "OTHER" / "OTHER-1-1.jpeg")
    with pytest.raises(UserError, match="class 'OTHER' is unknown|CLASS-PATIENT-NUMBER"):
        oct_data.load(str(tmp_path))


def test_octmnist_layout(tmp_path):
    parts = {f"{part}_{kind}": np.zeros((8, 28, 28) if kind == "images" else (8, 1), np.uint8)
             for part in ("train", "val", "test") for kind in ("images", "labels")}  # fmt: skip
    for part in ("train", "val", "test"):
        parts[f"{part}_labels"][:, 0] = np.arange(8) % 4
    np.savez(tmp_path / "octmnist.npz", **parts)
    found = oct_data.load(str(tmp_path))
    assert [len(part) for part in found.given[0]] == [8, 8, 8] and found.read(0).shape == (3, 28, 28)
    (tmp_path / "octmnist.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as OCTMNIST"):
        oct_data.load(str(tmp_path))


def test_unknown_folders(tmp_path):
    with pytest.raises(UserError, match="elpv, synthetic, or a folder"):
        oct_data.load("nowhere")
    with pytest.raises(UserError, match="neither data_information.csv"):
        oct_data.load(str(tmp_path))


def test_drawn_scans_show_what_they_are():
    """The epithelium is even in normal scans, bumpy with drusen, lifted by a membrane; drawn alike twice."""
    images, labels, owners = synthetic.b_scans(12, 4, size=64)
    again, _, _ = synthetic.b_scans(12, 4, size=64)
    assert np.array_equal(images, again) and images.dtype == np.uint8
    assert all(len(set(labels[owners == owner])) == 1 for owner in range(12))
    columns = np.arange(64)

    def unevenness(image):
        """Of the brightest row of each column, about a parabola: pixels."""
        smooth = np.apply_along_axis(np.convolve, 1, image.astype(float), np.ones(7) / 7, "same")
        ridge = smooth[20:].argmax(0)
        return np.std(ridge - np.polyval(np.polyfit(columns, ridge, 2), columns))

    found = np.array([unevenness(image) for image in images])
    means = [np.median(found[labels == label]) for label in range(3)]
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("view", [views.teacher_train, views.student_train, views.plain])
def test_views_are_of_one_size(view):
    image = torch.randint(0, 255, (3, 40, 60), dtype=torch.uint8)
    found = view(32)(image)
    assert found.shape == (3, 32, 32) and found.dtype == torch.float32


def test_test_views_are_five_and_the_same_every_time():
    image = torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8)
    first, second = ([view(image) for view in views.test_views(32)] for _ in range(2))
    assert len(first) == 5 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.testing.assert_close(first[1], first[0].flip(2))
    torch.testing.assert_close(first[2], first[0].flip(1))


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


# ---- The recipe ------------------------------------------------------------------------------------------

SMALL = [
    "--data", "synthetic", "--image-size", "16", "--teacher", "cifar_resnet8", "--student", "cifar_resnet8",
    "--teacher-epochs", "2", "--swa-start", "1", "--epochs", "1", "--folds", "2", "--seeds", "1",
    "--device", "cpu", "--threads", "1", "--progress", "none",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_scans():
    """The demonstration set with 24 patients of 3 scans: a run of seconds."""
    real = synthetic.b_scans

    def fewer(patients, scans, **options):
        return real(*((24, 3) if (patients, scans) == (60, 10) else (patients, scans)), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "b_scans", fewer)
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("kd_oct") / "straight"
    assert main(["distill", "kd_oct", *SMALL, "--out", str(out)]) == 0
    return out


def test_run_writes_what_it_should(straight):
    names = {path.name for path in straight.iterdir()}
    assert names >= {"folds.json", "cv_results.csv", "student.onnx", "student.pt2", "report.html"}
    assert names >= {"student.safetensors", "teacher-0.safetensors", "teacher-1.safetensors"}
    page = (straight / "report.html").read_text()
    assert all(words in page for words in ("teacher, swa", "5 views", "Not a medical device", "Reliability"))
    parity = json.loads((straight / "checkpoint" / "export.json").read_text())
    assert all(gap < 1e-5 for gap in parity.values()) and set(parity) == {"torch.export", "ONNX"}
    table = list(csv.DictReader((straight / "cv_results.csv").read_text().splitlines()))
    assert {row["network"] for row in table} == {
        "teacher", "teacher, best", "teacher, swa", "teacher, 5 views", "student", "distilled",
    }  # fmt: skip


def test_resumed_is_the_same_to_the_bit(straight, tmp_path):
    """Killed after the first fold's student alone: best epoch and average come back from the checkpoint."""
    resumed = tmp_path / "resumed"
    (resumed / "checkpoint").mkdir(parents=True)
    for name in ("config.yaml", "checkpoint/teacher-0.ckpt", "checkpoint/student-0-0.ckpt"):
        (resumed / name).write_bytes((straight / name).read_bytes())
    assert main(["distill", "kd_oct", "--resume", str(resumed)]) == 0
    for name in ("student.safetensors", "teacher-0.safetensors", "teacher-1.safetensors", "folds.json"):
        assert (resumed / name).read_bytes() == (straight / name).read_bytes()


def test_teachers_of_other_folds_are_refused(straight, tmp_path, capsys):
    given = [*SMALL, "--teacher-run", str(straight), "--no-baseline", "--no-export", "--no-tta"]
    assert main(["distill", "kd_oct", *given, "--split-seed", "7", "--out", str(tmp_path / "other")]) == 2
    assert "were trained on other folds" in capsys.readouterr().err
    assert main(["distill", "kd_oct", *given, "--first-folds", "0", "--out", str(tmp_path / "same")]) == 0


def test_stops_when_no_epoch_is_better(tmp_path):
    given = [*SMALL, "--no-baseline", "--no-export", "--no-tta", "--first-folds", "1", "--lr", "1e-12"]
    given += ["--epochs", "6", "--patience", "1", "--teacher-epochs", "1", "--swa-start", "-1"]
    out = tmp_path / "run"
    assert main(["distill", "kd_oct", *given, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines].count("distilled-0-0") < 6


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--folds", "1"], "--folds"), (["--focal", "soft"], "--focal"), (["--lr", "0"], "--lr"),
     (["--data", "nowhere"], "nowhere"), (["--teacher", "convnextv3"], "convnextv3")],
)  # fmt: skip
def test_bad_options_are_one_line(given, message, tmp_path, capsys):
    assert main(["distill", "kd_oct", *given, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err


def test_a_folder_gets_the_published_settings(neh):
    made = options.Options(data=str(neh))
    assert (made.teacher, made.student) == ("convnextv2_large.fcmae_ft_in22k_in1k", "efficientnet_b2")
    assert (made.teacher_epochs, made.epochs, made.image_size, made.swa_start) == (150, 100, 384, 100)
    assert math.isclose(made.backbone_lr, 2e-5) and made.pretrained and made.freeze == 5
