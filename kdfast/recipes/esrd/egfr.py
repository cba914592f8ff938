"""Estimated glomerular filtration rate: the CKD-EPI creatinine equations of 2009 and 2021, KDIGO stages,
slope.

    eGFR = c * (Scr / k)^e * d^age * f[female] * b[Black]        mL/min/1.73 m^2
    e    = a  where Scr <= k,  r  where Scr > k

The published form, min(Scr/k, 1)^a * max(Scr/k, 1)^r, has one factor equal to 1 everywhere, so one power is
enough; at Scr = k the derivative taken is the left one. Constants as published by the National Kidney
Foundation (kidney.org): Levey 2009 (b = 1.159) and Inker 2021 (race-free). Adults only. Creatinine in mg/dL
or umol/L (88.4 umol/L = 1 mg/dL).

Values may be numbers, NumPy arrays or torch tensors (differentiable); all broadcast together. NaN stays NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

UMOL_PER_MG = 88.4  # umol/L of creatinine in one mg/dL
PLAUSIBLE_MG_DL = (0.1, 30.0)  # serum creatinine outside this is a unit or entry error
UNITS = {"mg/dL": 1.0, "umol/L": UMOL_PER_MG, "µmol/L": UMOL_PER_MG}
STAGES = ("G1", "G2", "G3a", "G3b", "G4", "G5")
_STAGE_FLOORS = np.array([90.0, 60.0, 45.0, 30.0, 15.0])  # a stage holds its lower bound


@dataclass(frozen=True)
class Equation:
    """Constants of one equation; pairs are (female, male)."""

    scale: float
    kappa: tuple[float, float]
    alpha: tuple[float, float]
    above: float
    per_year: float
    female: float
    black: float


CKD_EPI_2009 = Equation(141.0, (0.7, 0.9), (-0.329, -0.411), -1.209, 0.993, 1.018, 1.159)
CKD_EPI_2021 = Equation(142.0, (0.7, 0.9), (-0.241, -0.302), -1.200, 0.9938, 1.012, 1.0)


def ckd_epi_2009(scr: Any, age: Any, female: Any, black: Any = False, *, unit: str = "mg/dL") -> Any:
    """CKD-EPI 2009 eGFR; `scr` in `unit`, `age` in years (18 or more), `female` and `black` booleans.

    `black=False` for everybody is the equation with its race term switched off.
    """
    return _evaluate(CKD_EPI_2009, scr, age, female, black, unit)


def ckd_epi_2021(scr: Any, age: Any, female: Any, *, unit: str = "mg/dL") -> Any:
    """CKD-EPI 2021 eGFR, without race; arguments as `ckd_epi_2009`."""
    return _evaluate(CKD_EPI_2021, scr, age, female, False, unit)


def kdigo_stage(egfr: Any) -> np.ndarray:
    """KDIGO GFR category of each value: "G1" (90 and more) ... "G5" (below 15), "missing" where it is NaN."""
    values = np.asarray(egfr, dtype=np.float64)
    if negative := int((values < 0).sum()):
        raise ValueError(f"egfr: {negative} of {values.size} values are negative; give mL/min/1.73 m^2")
    # searchsorted wants ascending floors, so it runs on the mirrored axis: -90 < -60 < ...
    codes = np.searchsorted(-_STAGE_FLOORS, -values, side="left")
    return np.where(np.isnan(values), "missing", np.array(STAGES)[np.minimum(codes, 5)])


def slope(years: Any, values: Any) -> float:
    """Least-squares slope of `values` over `years` (units per year); NaN below two distinct times. NaN
    pairs are left out.
    """
    t, v = np.asarray(years, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if t.shape != v.shape:
        raise ValueError(f"years and values must have one shape, got {t.shape} and {v.shape}")
    known = ~(np.isnan(t) | np.isnan(v))
    t, v = t[known], v[known]
    centred = t - t.mean() if t.size else t
    spread = float((centred**2).sum())
    return float((centred * v).sum() / spread) if spread > 0 else float("nan")


def _evaluate(equation: Equation, scr: Any, age: Any, female: Any, black: Any, unit: str) -> Any:
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {sorted(set(UNITS))}, got {unit!r}")
    if any(isinstance(a, torch.Tensor) for a in (scr, age, female, black)):
        return _evaluate_torch(equation, scr, age, female, black, unit)
    scr, age = np.asarray(scr, dtype=np.float64), np.asarray(age, dtype=np.float64)
    female, black = np.asarray(female, dtype=bool), np.asarray(black, dtype=bool)
    _check(scr, age, unit)
    return _formula(equation, np.where, scr / UNITS[unit], age, female, black)


def _evaluate_torch(
    equation: Equation, scr: Any, age: Any, female: Any, black: Any, unit: str
) -> torch.Tensor:
    device = next(a.device for a in (scr, age, female, black) if isinstance(a, torch.Tensor))
    scr, age = torch.as_tensor(scr, device=device), torch.as_tensor(age, device=device)
    dtype = torch.result_type(scr, age)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    female, black = (torch.as_tensor(a, device=device).bool() for a in (female, black))

    def where(mask: torch.Tensor, a: Any, b: Any) -> torch.Tensor:  # bare numbers would become float32
        return torch.where(mask, *(torch.as_tensor(v, dtype=dtype, device=device) for v in (a, b)))

    _check(scr.detach().cpu().numpy(), age.detach().cpu().numpy(), unit)
    return _formula(equation, where, scr.to(dtype) / UNITS[unit], age.to(dtype), female, black)


def _formula(
    equation: Equation, where: Callable[..., Any], scr: Any, age: Any, female: Any, black: Any
) -> Any:
    kappa = where(female, *equation.kappa)
    exponent = where(scr <= kappa, where(female, *equation.alpha), equation.above)
    sex_and_race = where(female, equation.female, 1.0) * where(black, equation.black, 1.0)
    return equation.scale * (scr / kappa) ** exponent * equation.per_year**age * sex_and_race


def _check(scr: np.ndarray, age: np.ndarray, unit: str) -> None:
    low, high = (bound * UNITS[unit] for bound in PLAUSIBLE_MG_DL)
    bad = scr[(scr < low) | (scr > high)]  # NaN compares false: it stays NaN in the result
    if bad.size:
        other = "umol/L" if unit == "mg/dL" else "mg/dL"
        raise ValueError(
            f"scr: {bad.size} of {scr.size} values lie outside {low:g} to {high:g} {unit} "
            f"(smallest {bad.min():g}, largest {bad.max():g}); they look like {other}, so give the right unit"
        )
    if minors := int((age < 18).sum()):
        raise ValueError(f"age: {minors} of {age.size} values are below 18; CKD-EPI holds for adults only")
    if impossible := int((age > 120).sum()):
        raise ValueError(f"age: {impossible} of {age.size} values exceed 120 years; give years")
