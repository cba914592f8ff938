"""The documented schema of the input tables: columns, types, units, plausible ranges. Its text is
`schema.yaml`.

`describe()` prints it for people (`python -m kdfast.recipes.esrd.schema`).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

SCHEMA_FILE = Path(__file__).with_name("schema.yaml")
SOURCES = ("clinical", "claims")


@dataclass(frozen=True)
class Column:
    """A column; `type` is id, date, number or text. `values` lists all allowed ones, lower case."""

    name: str
    type: str
    about: str = ""
    optional: bool = False  # the column may be absent
    nullable: bool = False  # cells may be empty
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table and its columns by name."""

    name: str
    source: str
    about: str
    required: bool
    columns: dict[str, Column]


@dataclass(frozen=True)
class Measurement:
    """A laboratory test or vital sign: its unit here, the factors from other units, the plausible range."""

    name: str
    unit: str
    factors: dict[str, float]  # normalised unit -> factor to `unit`, itself included
    plausible: tuple[float, float]  # in `unit`
    about: str


@dataclass(frozen=True)
class Schema:
    """Tables and measurements by name."""

    tables: dict[str, Table]
    measurements: dict[str, Measurement]


def plain_unit(text: str) -> str:
    """A unit as it is compared: lower case, no blanks, both Unicode mu written u."""
    return text.lower().replace(" ", "").replace("\u00b5", "u").replace("\u03bc", "u")


@lru_cache(maxsize=1)
def load_schema() -> Schema:
    """The recipe's schema."""
    content = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    tables = {name: _table(name, entry) for name, entry in content["tables"].items()}
    return Schema(
        tables, {name: _measurement(name, entry) for name, entry in content["measurements"].items()}
    )


def _table(name: str, entry: dict[str, Any]) -> Table:
    columns = {
        column: Column(
            column, **{**fields, "values": tuple(str(v).lower() for v in fields.get("values", ()))}
        )
        for column, fields in entry["columns"].items()
    }
    return Table(name, entry["source"], entry["about"], entry.get("required", False), columns)


def _measurement(name: str, entry: dict[str, Any]) -> Measurement:
    factors = {
        plain_unit(unit): float(factor) for unit, factor in {entry["unit"]: 1.0, **entry["others"]}.items()
    }
    low, high = entry["plausible"]
    return Measurement(name, entry["unit"], factors, (float(low), float(high)), entry["about"])


def describe() -> str:
    """The schema as text: every table with its columns, every measurement with its units."""
    schema, lines = load_schema(), []
    for table in schema.tables.values():
        need = "required" if table.required else "optional"
        lines.append(f"{table.name}  ({table.source}, {need}): {table.about}")
        for c in table.columns.values():
            notes = [c.type, *(["optional"] if c.optional else []), *(["may be empty"] if c.nullable else [])]
            allowed = f" one of {', '.join(c.values)};" if c.values else ""
            lines.append(f"    {c.name:<14} {', '.join(notes)};{allowed} {c.about}".rstrip("; "))
    lines.append("measurements (test, unit, plausible range, also read):")
    for m in schema.measurements.values():
        others = ", ".join(u for u in m.factors if u != plain_unit(m.unit)) or "-"
        lines.append(
            f"    {m.name:<14} {m.unit:<8} {m.plausible[0]:g} to {m.plausible[1]:g}; {others}; {m.about}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
