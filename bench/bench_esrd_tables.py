"""Reading 10 million laboratory results for kdfast.recipes.esrd: Polars against pandas, time and peak memory.

    python bench/bench_esrd_tables.py --rows 10000000 --save bench/results/MACHINE

Synthetic people are written as CSV and Parquet shards. Then, each in a process of its own:
- polars-csv, pandas-csv: labs -> units converted, bad rows counted and left out, mean per person, three
  months and test. Polars does it through the recipe's own code, pandas in chunks of a million rows, the only
  way it stays within 4 GB; the two must agree.
- cohort-csv, cohort-parquet: the recipe's whole way from all six tables to the cohort (`build_cohort`).
The record is bench/results/<machine>/esrd_tables.json. Within 4 GB is required, the faster library is used.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LABS_PER_PERSON = 78  # of the synthetic people
SHARD = 10_000  # people
LIMIT_GB = 4.0
PROVIDERS = ("polars-csv", "pandas-csv", "cohort-csv", "cohort-parquet")
TESTS = ("uacr", "hemoglobin", "calcium", "phosphorus", "pth")


def write_shards(folder: Path, rows: int) -> int:
    """CSV and Parquet shards of about `rows` laboratory results; returns the exact number."""
    import polars as pl

    from kdfast.recipes.esrd.synthetic import make_tables, simulate

    people, written = round(rows / LABS_PER_PERSON), 0
    for shard, begin in enumerate(range(0, people, SHARD)):
        tables = make_tables(simulate(min(SHARD, people - begin), seed=shard), seed=shard)
        for name, table in tables.items():
            table = table.with_columns(pl.col("patient_id") + begin)
            for kind in ("csv", "parquet"):
                (folder / kind / name).mkdir(parents=True, exist_ok=True)
            table.write_csv(folder / "csv" / name / f"{shard:03}.csv")
            table.write_parquet(folder / "parquet" / name / f"{shard:03}.parquet")
        written += len(tables["labs"])
    return written


def polars_labs(folder: Path) -> dict[str, float]:
    """The recipe's own code on the labs alone; sums of the grid's cells by test, and the number of cells."""
    from kdfast.recipes.esrd import grid as g
    from kdfast.recipes.esrd.checks import check_tables
    from kdfast.recipes.esrd.codes import load_codes
    from kdfast.recipes.esrd.tables import scan_folder

    frames = scan_folder(folder / "csv")
    clean = check_tables({name: frames[name] for name in ("patients", "labs")}, load_codes())
    birth = clean.patients["birth"].to_physical().to_numpy().astype(np.int64)
    start = g.start_frame(np.arange(len(birth)), birth + round(60 * 365.25))
    grid = g.Grid(len(birth), 10, [], [])
    g.add_measurements(grid, clean.events["labs"], start, {t: g.Feature(t, "clinical") for t in TESTS})
    x = grid.array()
    return {
        **{t: float(np.nansum(x[:, :, i], dtype=np.float64)) for i, t in enumerate(TESTS)},
        "cells": int((x == x).sum()),
    }


def pandas_labs(folder: Path) -> dict[str, float]:
    """The same steps in pandas, chunk by chunk, partial sums merged at the end."""
    import pandas as pd

    from kdfast.recipes.esrd.schema import load_schema, plain_unit

    files = sorted((folder / "csv" / "patients").glob("*.csv"))
    people = pd.concat(
        [pd.read_csv(f, parse_dates=["birth_date", "death_date", "followup_end"]) for f in files]
    )
    people = people.set_index("patient_id")
    day = (people["birth_date"] - pd.Timestamp(0)).dt.days + round(60 * 365.25)
    measurements = load_schema().measurements
    factor = {(m.name, u): f for m in measurements.values() for u, f in m.factors.items()}
    parts, bad = [], np.zeros(5, np.int64)
    for file in sorted((folder / "csv" / "labs").glob("*.csv")):
        for labs in pd.read_csv(file, chunksize=1_000_000, parse_dates=["date"]):
            test, unit = labs["test"].str.strip().str.lower(), labs["unit"].map(plain_unit)
            pairs = pd.MultiIndex.from_arrays([test, unit])
            value = labs["value"] * pairs.map(factor).to_numpy(dtype=float)
            low = test.map({m.name: m.plausible[0] for m in measurements.values()})
            high = test.map({m.name: m.plausible[1] for m in measurements.values()})
            who = people.reindex(labs["patient_id"]).reset_index(drop=True)
            date = labs["date"].reset_index(drop=True)
            marks = [
                who["birth_date"].isna().to_numpy(),
                (date < who["birth_date"]).to_numpy(),
                (date > who["death_date"]).to_numpy(),
                (date > who["followup_end"]).to_numpy(),
                ~value.between(low, high).to_numpy(),
            ]
            bad += [m.sum() for m in marks]
            since = (labs["date"] - pd.Timestamp(0)).dt.days - labs["patient_id"].map(day)
            step = np.floor(since / (3 * 30.4375))
            keep = ~np.any(marks, axis=0) & (step >= 0) & (step < 10) & test.isin(TESTS)
            frame = pd.DataFrame({"p": labs["patient_id"], "s": step, "t": test, "v": value})[keep]
            parts.append(frame.groupby(["p", "s", "t"])["v"].agg(["sum", "count"]))
    sums = pd.concat(parts).groupby(level=[0, 1, 2]).sum()
    means = (sums["sum"] / sums["count"]).astype(np.float32).astype(np.float64)
    return {**{t: float(means.xs(t, level="t").sum()) for t in TESTS}, "cells": len(means)}


def whole_cohort(folder: Path) -> dict[str, float]:
    """The recipe's whole way to the cohort."""
    from kdfast.recipes.esrd.build import build_cohort

    cohort, _ = build_cohort(folder)
    return {"people": len(cohort.x), "events": int((cohort.event < 10**7).sum())}


def run_provider(provider: str, folder: Path) -> dict:
    """One provider in this process: seconds, peak memory in GB, what it found."""
    work = {
        "polars-csv": lambda: polars_labs(folder),
        "pandas-csv": lambda: pandas_labs(folder),
        "cohort-csv": lambda: whole_cohort(folder / "csv"),
        "cohort-parquet": lambda: whole_cohort(folder / "parquet"),
    }[provider]
    for module in ("pandas", "kdfast.recipes.esrd.build"):  # importing is not what is measured
        importlib.import_module(module)
    begin = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"provider": provider, "seconds": round(seconds, 2), "peak_gb": round(peak, 2), "found": found}


def measure(rows: int) -> dict:
    """All providers on `rows` laboratory results, each in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        maker = [sys.executable, __file__, "--shards", name, "--rows", str(rows)]
        written = int(subprocess.run(maker, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
        results = []
        for provider in PROVIDERS:
            command = [sys.executable, __file__, "--provider", provider, "--folder", name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print({k: v for k, v in results[-1].items() if k != "found"}, flush=True)
    ours, pandas = (r["found"] for r in results[:2])
    if ours["cells"] != pandas["cells"] or not np.allclose(
        [ours[t] for t in TESTS], [pandas[t] for t in TESTS], rtol=1e-5
    ):
        raise SystemExit(f"polars and pandas disagree: {ours} against {pandas}")
    return {"laboratory_results": written, "limit_gb": LIMIT_GB, "machine": _machine(), "results": results}


def _machine() -> dict:
    import polars

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "polars": polars.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--save", type=Path, help="folder to write esrd_tables.json to")
    parser.add_argument("--shards", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--provider", choices=PROVIDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.shards:
        print(write_shards(given.shards, given.rows))
    elif given.provider:
        print(json.dumps(run_provider(given.provider, given.folder)))
    else:
        record = measure(given.rows)
        if given.save:
            given.save.mkdir(parents=True, exist_ok=True)
            (given.save / "esrd_tables.json").write_text(json.dumps(record, indent=1) + "\n")


def test_read_labs(benchmark) -> None:
    """`kdfast bench esrd_tables`: a small case of the same; starts green, since `measure` compares the
    two."""
    record = benchmark.pedantic(measure, args=(200_000,), rounds=1)
    assert all(r["peak_gb"] < LIMIT_GB for r in record["results"])


if __name__ == "__main__":
    main()
