"""CKD-EPI 2009 and 2021 against the specification's float64 vectors, units, derivatives, stages, slope."""

import numpy as np
import pytest
import torch

from kdfast.recipes.esrd.egfr import STAGES, ckd_epi_2009, ckd_epi_2021, kdigo_stage, slope

# creatinine mg/dL, age, female, 2009 non-Black, 2009 Black, 2021, d 2021 / d creatinine (left at kappa),
# stage
VECTORS = [
    (1.0, 50, 0, 87.36967724, 101.2614559, 91.69147861, -110.0297743, "G1"),
    (1.0, 50, 1, 65.6376231, 76.07400517, 68.63349666, -82.36019599, "G2"),
    (0.9, 55, 1, 71.98133456, 83.42636675, 75.49880473, -100.6650730, "G2"),
    (0.5, 30, 1, 129.8734775, 150.5233604, 129.3169598, -62.33077460, "G1"),
    (0.9, 60, 0, 92.5068776, 107.2154711, 97.77501448, -32.80894930, "G1"),
    (0.7, 60, 1, 94.17200139, 109.1453496, 98.94831466, -34.06649119, "G1"),
    (1.4, 65, 0, 52.35168489, 60.67560279, 55.77765086, -47.80941502, "G3a"),
    (2.5, 70, 0, 25.074728, 29.06160976, 26.96378242, -12.94261556, "G4"),
    (4.0, 70, 1, 10.67203611, 12.36888986, 11.48269909, -3.444809726, "G5"),
    (0.8, 20, 0, 128.5960916, 149.0428701, 129.9320392, -49.04934478, "G1"),
    (0.6, 18, 0, 146.7841266, 170.1228027, 143.4992952, -72.22797858, "G1"),
    (7.5, 45, 0, 7.91891026, 9.178016992, 8.428698091, -1.348591695, "G5"),
    (0.7, 18, 1, 126.489176, 146.600955, 128.4844945, None, "G1"),
]
COLUMNS = list(zip(*VECTORS, strict=True))


def test_vectors() -> None:
    scr, age, female = COLUMNS[:3]
    np.testing.assert_allclose(ckd_epi_2009(scr, age, female), COLUMNS[3], rtol=1e-9)
    np.testing.assert_allclose(ckd_epi_2009(scr, age, female, True), COLUMNS[4], rtol=1e-9)
    np.testing.assert_allclose(ckd_epi_2021(scr, age, female), COLUMNS[5], rtol=1e-9)
    assert kdigo_stage(COLUMNS[5]).tolist() == list(COLUMNS[7])


def test_micromoles_equal_milligrams() -> None:
    scr, age, female = (np.array(c, dtype=float) for c in COLUMNS[:3])
    for unit in ("umol/L", "µmol/L"):
        np.testing.assert_allclose(ckd_epi_2021(scr * 88.4, age, female, unit=unit), COLUMNS[5], rtol=1e-9)


def test_torch_derivative() -> None:
    rows = [v for v in VECTORS if v[6] is not None]
    scr = torch.tensor([r[0] for r in rows], dtype=torch.float64, requires_grad=True)
    age, female = torch.tensor([r[1] for r in rows]), torch.tensor([r[2] for r in rows])
    (grad,) = torch.autograd.grad(ckd_epi_2021(scr, age, female).sum(), scr)
    np.testing.assert_allclose(grad, [r[6] for r in rows], rtol=1e-8)


@pytest.mark.parametrize(
    ("equation", "total", "by_scr", "by_age", "first", "stages"),
    [
        (lambda s, a, f, b: ckd_epi_2009(s, a, f, b), 917.8902689, 652.313148, 6.447825694,
         (22.2350663, 30.64267011, 50.820017), (5, 1, 1, 2, 3, 0)),
        (lambda s, a, f, b: ckd_epi_2009(s, a, f), 877.1961658, 620.3054076, 6.161965289,
         (22.2350663, 30.64267011, 43.84815962), (5, 1, 0, 3, 3, 0)),
        (lambda s, a, f, b: ckd_epi_2021(s, a, f), 894.9256693, 522.4435909, 5.565811049,
         (23.97241829, 32.90109726, 45.85704857), (5, 1, 1, 3, 2, 0)),
    ],
)  # fmt: skip
def test_batch(equation, total, by_scr, by_age, first, stages) -> None:
    i = torch.arange(1, 13, dtype=torch.float64)
    scr = (1.3 + 0.9 * torch.sin(i)).requires_grad_()
    age = (55 + 25 * torch.sin(i + 0.5)).requires_grad_()
    values = equation(scr, age, i % 2 == 1, i % 3 == 0)
    gradients = torch.autograd.grad(values.sum(), (scr, age))
    assert values.sum().item() == pytest.approx(total, rel=1e-9)
    assert [g.abs().sum().item() for g in gradients] == pytest.approx([by_scr, by_age], rel=1e-8)
    assert values[:3].tolist() == pytest.approx(first, rel=1e-9)
    found = kdigo_stage(values.detach()).tolist()
    assert tuple(found.count(s) for s in STAGES) == stages


def test_stage_bounds_and_missing() -> None:
    values = [90, 89.999, 60, 59.999, 45, 44.9, 30, 29.9, 15, 14.9, 0, np.nan]
    expected = ["G1", "G2", "G2", "G3a", "G3a", "G3b", "G3b", "G4", "G4", "G5", "G5", "missing"]
    assert kdigo_stage(values).tolist() == expected
    assert np.isnan(ckd_epi_2021([np.nan, 1.0], 50, True)).tolist() == [True, False]
    assert ckd_epi_2021(1.0, 50, False).shape == ()


def test_bad_values_are_named_with_counts() -> None:
    with pytest.raises(ValueError, match=r"1 of 2 values .*largest 90\); they look like umol/L"):
        ckd_epi_2021([1.1, 90.0], 50, False)
    with pytest.raises(ValueError, match="look like mg/dL"):
        ckd_epi_2009(1.1, 50, False, unit="umol/L")
    with pytest.raises(ValueError, match="2 of 3 values are below 18"):
        ckd_epi_2021(1.0, [3, 17, 18], False)
    with pytest.raises(ValueError, match="unit must be one of"):
        ckd_epi_2021(1.0, 50, False, unit="mmol/L")
    with pytest.raises(ValueError, match="1 of 2 values are negative"):
        kdigo_stage([-1, 50])


def test_slope() -> None:
    assert slope([0, 0.5, 1.0, np.nan], [60, 58, 56, 1]) == pytest.approx(-4.0)
    assert np.isnan(slope([1, 1], [50, 40])) and np.isnan(slope([], []))
    with pytest.raises(ValueError, match="one shape"):
        slope([1], [1, 2])
