"""The records that synthetic people leave behind, in the schema of schema.yaml: patients, and all tables
together.

Clinical tables are in clinical.py, claims in claims.py. Records stop at death and at the end of follow-up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from kdfast.recipes.esrd.synthetic import claims, clinical
from kdfast.recipes.esrd.synthetic.truth import Truth


def make_tables(truth: Truth, seed: int = 0) -> dict[str, pl.DataFrame]:
    """All six tables."""
    draw = np.random.default_rng([seed, 2])
    diagnoses, procedures = claims.codes(truth, draw)
    tables = {
        "labs": clinical.labs(truth, draw),
        "vitals": clinical.vitals(truth, draw),
        "diagnoses": diagnoses,
        "procedures": procedures,
        "encounters": claims.encounters(truth, draw),
    }
    last = pl.Series(np.minimum(truth.end, truth.death))
    return {"patients": _patients(truth), **{name: _dated(frame, last) for name, frame in tables.items()}}


def write_tables(folder: str | Path, tables: dict[str, pl.DataFrame], kind: str = "parquet") -> None:
    """One file a table in `folder`, `kind` parquet or csv."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write = table.write_parquet if kind == "parquet" else table.write_csv
        write(Path(folder, f"{name}.{kind}"))


def _patients(truth: Truth) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "patient_id": np.arange(len(truth.start)),
            "birth_date": truth.birth,
            "sex": np.where(truth.female, "F", "M"),
            "race": np.where(truth.black, "black", "white"),
            "death_date": truth.death,
            "followup_end": truth.end,
        }
    )
    seen = pl.when(pl.col("death_date") <= pl.col("followup_end")).then("death_date")
    return frame.with_columns(seen).with_columns(
        pl.col("birth_date", "death_date", "followup_end").cast(pl.Int32).cast(pl.Date)
    )


def _dated(frame: pl.DataFrame, last: pl.Series) -> pl.DataFrame:
    """Day numbers to dates; nothing after a person's `last` day; in order of time within the person."""
    frame = frame.filter(pl.col("date") <= last[frame["patient_id"]]).sort("patient_id", "date")
    return frame.with_columns(pl.col("date").cast(pl.Int32).cast(pl.Date))
