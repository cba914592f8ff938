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
    """One file an op: its newest records replace the old ones of the same case; others stay as they are."""
    folder = Path(os.environ.get("KDFAST_BENCH_RESULTS") or HERE / "results" / _machine())
    for op in dict.fromkeys(record["op"] for record in harness.RECORDS):
        folder.mkdir(parents=True, exist_ok=True)
        made = {record["case"]: record for record in harness.RECORDS if record["op"] == op}
        path = folder / f"{op}.json"
        rows = _earlier(path) | made
        path.write_text(json.dumps({**_facts(), "rows": list(rows.values())}, indent=1) + "\n")


def _earlier(path: Path) -> dict[str, dict]:
    """The records of an op's file by case, each with the tree and the day of its measurement."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    facts = {name: content[name] for name in ("git", "date")}
    return {row["case"]: facts | row for row in content["rows"]}


def pytest_terminal_summary(terminalreporter) -> None:
    """The table, also under -q."""
    if harness.RECORDS:
        terminalreporter.write_line("")
        terminalreporter.write_line(report.table(harness.RECORDS))
