"""Writes the session's records to bench/results/<machine>/<op>.json and prints the table."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from pathlib import Path

import harness
import report
import torch

import kdfast

HERE = Path(__file__).parent


def _machine() -> str:
    if harness.device() == "cuda":
        return re.sub(r"[^a-z0-9-]", "", torch.cuda.get_device_name().lower().replace(" ", "-"))
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", facts)
    name = found.group(1) if found else platform.machine()
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"cpu-{name}-{kdfast.info()['cpu_level']}-{torch.get_num_threads()}-threads"


def _facts() -> dict:
    git = subprocess.run(
        ["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "machine": _machine(),
        "date": datetime.date.today().isoformat(),
        "git": git.stdout.strip(),
        "kdfast": kdfast.__version__,
        "torch": torch.__version__,
        "triton": kdfast.info()["triton"],
        "backend": os.environ.get("KDFAST_BACKEND") or "auto",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "rounds": harness.ROUNDS,
        "runs": harness.RUNS,
    }


def pytest_sessionfinish() -> None:
    """One file an op: its newest records replace the old ones."""
    folder = Path(os.environ.get("KDFAST_BENCH_RESULTS") or HERE / "results" / _machine())
    for op in dict.fromkeys(record["op"] for record in harness.RECORDS):
        folder.mkdir(parents=True, exist_ok=True)
        rows = [record for record in harness.RECORDS if record["op"] == op]
        (folder / f"{op}.json").write_text(json.dumps({**_facts(), "rows": rows}, indent=1) + "\n")


def pytest_terminal_summary(terminalreporter) -> None:
    """The table, also under -q."""
    if harness.RECORDS:
        terminalreporter.write_line("")
        terminalreporter.write_line(report.table(harness.RECORDS))
