"""KD-OCT's data: folds that do not leak, folder layouts, drawn scans, views."""

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold

from kdfast.recipes.common.errors import UserError
from kdfast.recipes.kd_oct import folds as fold_tools
from kdfast.recipes.kd_oct import oct_data, options, synthetic, views

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
    with pytest.raises(UserError, match="of the 6 patients that a fold does not test"):
        fold_tools.patient_folds([0, 1, 2] * 4, [f"p{i}" for i in range(12)], count=2)


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


def test_a_folder_gets_the_published_settings(neh):
    made = options.Options(data=str(neh))
    assert (made.teacher, made.student) == ("convnextv2_large.fcmae_ft_in22k_in1k", "efficientnet_b2")
    assert (made.teacher_epochs, made.epochs, made.image_size, made.swa_start) == (150, 100, 384, 100)
    assert math.isclose(made.backbone_lr, 2e-5) and made.pretrained and made.freeze == 5
