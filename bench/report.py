"""The table, the plots and the roofline of the records: `python bench/report.py [results folder ...]`.

Writes bench/results/<machine>/report.md and speed.svg, every provider a row, and the short table of README.md
between its two markers, every case a row.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def _memory(size: float) -> str:
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size / 1024:.0f} KB"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _row(record: dict[str, Any], name: str, facts: dict[str, Any]) -> list[str]:
    first = name == next(iter(record["providers"]))
    if "failed" in facts:
        return [record["op"], record["case"], name, "cannot run", facts["failed"], "", "", ""]
    speed = f"{record['fraction_of_copy']:.2f}" if first else ""
    error = "" if "error" not in facts else f"{facts['error']:.1e}" + (" WRONG" if facts.get("wrong") else "")
    ratio = "1" if first else f"{facts['ratio']:.2f}"
    return [
        record["op"],
        record["case"],
        name,
        _time(facts["median"]),
        ratio,
        speed,
        _memory(facts["peak_bytes"]),
        error,
    ]


HEADER = [
    "op",
    "case",
    "provider",
    "median",
    "time / kdfast's",
    "of copy speed",
    "peak memory",
    "gradient error",
]


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """Every provider of every record as text."""
    return [_row(record, name, facts) for record in records for name, facts in record["providers"].items()]


def aligned(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"  # noqa: E731
    return "\n".join([line(header), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, body)])


def table(records: list[dict[str, Any]]) -> str:
    """Every provider of every record, a row each."""
    return aligned(HEADER, rows(records))


SHORT_HEADER = ["op", "case", "kdfast", "memory", "times as long as kdfast"]


def short_table(records: list[dict[str, Any]]) -> str:
    """A row for every record: kdfast's time and memory, and how many times its time the others take."""
    body = []
    for record in records:
        ours, *others = record["providers"].items()
        took = [f"{name} {_ratio(facts['ratio'])}" for name, facts in others if "ratio" in facts]
        lost = [name for name, facts in others if "failed" in facts]
        cells = [_time(ours[1]["median"]), _memory(ours[1]["peak_bytes"])]
        text = "; ".join(took + [f"{name} cannot run" for name in lost])
        body.append([record["op"], record["case"], *cells, text or "measured alone"])
    return aligned(SHORT_HEADER, body)


def load(folder: Path) -> list[dict[str, Any]]:
    """The records of one machine, each with the facts of its file."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        facts = {name: value for name, value in content.items() if name != "rows"}
        found += [record | {"facts": facts} for record in content.get("rows", [])]
    return found


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """How many times kdfast's time each provider takes, by case; 1 is kdfast."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    cases = [(f"{r['op']} {r['case']}", r) for r in records]
    figure, axes = plt.subplots(figsize=(9, 0.5 + 0.42 * len(cases)), layout="constrained")
    names = dict.fromkeys(n for _, r in cases for n in list(r["providers"])[1:])
    for name in names:
        points = [
            (r["providers"][name]["ratio"], i)
            for i, (_, r) in enumerate(cases)
            if "ratio" in r["providers"].get(name, {})
        ]
        axes.scatter(*zip(*points, strict=True), label=name, s=28)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), [label for label, _ in cases], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time / kdfast's time (right of the line: kdfast is faster)")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path)
    plt.close(figure)


def write(folder: Path) -> str:
    """Writes a machine's report; returns its text."""
    records = load(folder)
    if not records:
        return ""
    facts = records[0]["facts"]
    rounds = sorted({record.get("rounds", record["facts"].get("rounds", 0)) for record in records} - {0})
    head = (
        f"# {facts['machine']}\n\ntorch {facts['torch']}, {facts['threads']} threads; forward and backward; "
        f"medians of {' or '.join(map(str, rounds))} interleaved rounds, in the best of several runs. "
        "Above 1 in `time / kdfast's`: kdfast is faster."
    )
    text = f"{head}\n\n![ratios](speed.svg)\n\n{table(records)}\n"
    (folder / "report.md").write_text(text)
    plot(records, folder / "speed.svg")
    return text


def fill_readme(records: list[dict[str, Any]]) -> None:
    """Puts the short table of the records between the markers of README.md, if they are there."""
    text = README.read_text()
    if BEGIN not in text or not records:
        return
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    README.write_text(f"{before}{BEGIN}\n\n{short_table(records)}\n\n{END}{after}")


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]] or sorted(
        p for p in (HERE / "results").glob("*") if p.is_dir()
    )
    for folder in folders:
        print(write(folder))
    fill_readme([record for folder in folders for record in load(folder)])


if __name__ == "__main__":
    main()
