"""Features and models as people write them."""

from __future__ import annotations

WORDS = {
    "egfr_2009": "eGFR (2009)",
    "egfr_2021": "eGFR (2021)",
    "egfr_slope_2009": "eGFR slope (2009)",
    "egfr_slope_2021": "eGFR slope (2021)",
    "uacr": "urine albumin/creatinine",
    "pth": "parathyroid hormone",
    "bmi": "body mass index",
    "sbp": "systolic pressure",
    "dbp": "diastolic pressure",
    "hdl": "HDL cholesterol",
    "fib4": "FIB-4",
    "smoke": "smoking",
    "htn": "hypertension",
    "afib": "atrial fibrillation",
    "ang/isc": "angina or ischemia",
    "fluid_electrolyte": "fluid or electrolyte disorder",
    "mineral_bone": "mineral and bone disorder",
    "low_egfr": "low kidney function",
    "log_uacr": "albuminuria",
    "admissions": "hospital admissions",
}
MODELS = {
    "logistic": "logistic regression",
    "random_forest": "random forest",
    "xgboost": "XGBoost",
    "lightgbm": "LightGBM",
    "bilstm": "BiLSTM",
    "transformer": "Transformer",
}
KINDS = {"n": "number of {} claims", "cost": "cost of {} claims"}


def readable(name: str) -> str:
    """ "uacr (last)" -> "urine albumin/creatinine, last"; names without an entry lose their underscores."""
    base, _, statistic = name.partition(" (")
    kind, _, rest = base.partition("_")
    if base in WORDS:
        words = WORDS[base]
    elif kind in KINDS and rest:
        words = KINDS[kind].format(rest)
    else:
        words = base.replace("_", " ").replace("ckd", "CKD")
    return f"{words}, {statistic.rstrip(')')}" if statistic else words


def model_name(model: str) -> str:
    """ "gru" -> "GRU"."""
    return MODELS.get(model, model.upper())
