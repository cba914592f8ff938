"""Reading: from CSV or Parquet files to lazy, typed Polars frames. Nothing is loaded here; later passes
stream.

CSV cells are read as text and cast, so that a cell that is no number or no date can be counted instead of
guessed at (`UNREADABLE` columns, used by checks.py). Polars won over pandas at 10 million rows, see
bench/bench_esrd_tables.py.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from kdfast.recipes.common.errors import UserError
from kdfast.recipes.esrd.schema import Column, Schema, Table, load_schema

TYPES = {"date": pl.Date, "number": pl.Float64, "text": pl.String}
UNREADABLE = "unreadable:"  # prefix of the boolean column that marks cells the cast could not read


class DataError(UserError, ValueError):
    """The tables cannot be used; the one sentence names every problem with its count."""


def scan_folder(folder: str | Path, schema: Schema | None = None) -> dict[str, pl.LazyFrame]:
    """Lazy frames of the tables in `folder`, typed as the schema says. Missing tables and columns are named
    at once.
    """
    schema, folder = schema or load_schema(), Path(folder)
    if not folder.is_dir():
        raise DataError(f"tables: {folder} is no folder; give one that holds {_wanted(schema)}")
    return _conform_all({name: _scan_table(folder, name) for name in schema.tables}, schema, str(folder))


def scan_frames(tables: Mapping[str, pl.DataFrame | pl.LazyFrame]) -> dict[str, pl.LazyFrame]:
    """The same for tables in memory, by name."""
    if unknown := sorted(tables.keys() - load_schema().tables.keys()):
        raise DataError(f"tables: {unknown} are none of {', '.join(load_schema().tables)}")
    return _conform_all(
        {name: frame.lazy() for name, frame in tables.items()}, load_schema(), "the given tables"
    )


def _conform_all(
    raw: Mapping[str, pl.LazyFrame | None], schema: Schema, where: str
) -> dict[str, pl.LazyFrame]:
    frames, problems = {}, []
    for table in schema.tables.values():
        if (frame := raw.get(table.name)) is not None:
            frames[table.name], missing = conform(frame, table)
            problems += [f"column {table.name}.{name}" for name in missing]
        elif table.required:
            problems.append(f"table {table.name} (as .parquet, .csv or a folder of them)")
    if problems:
        raise DataError(f"tables: {where} lacks {len(problems)} needed items: {', '.join(problems)}")
    return frames


def conform(raw: pl.LazyFrame, table: Table) -> tuple[pl.LazyFrame, list[str]]:
    """`raw` cast to the schema's columns plus `UNREADABLE` marks, and the names of missing needed columns."""
    have = raw.collect_schema()
    missing = [c.name for c in table.columns.values() if c.name not in have and not c.optional]
    columns: list[pl.Expr] = []
    for column in table.columns.values():
        if column.name not in have:
            columns.append(pl.lit(None, dtype=TYPES.get(column.type, pl.String)).alias(column.name))
            continue
        value = _cast(column, have[column.name])
        columns.append(value)
        if have[column.name] == pl.String and column.type in ("date", "number"):
            blank = pl.col(column.name).str.strip_chars().fill_null("") == ""
            columns.append((value.is_null() & ~blank).alias(UNREADABLE + column.name))
    return raw.select(columns), missing


def _cast(column: Column, dtype: pl.DataType) -> pl.Expr:
    value = pl.col(column.name)
    if column.type == "id":
        return value.cast(pl.String).str.strip_chars() if not dtype.is_integer() else value.cast(pl.Int64)
    if column.type == "date" and dtype == pl.String:
        return value.str.strip_chars().str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    if column.type == "number" and dtype == pl.String:
        return value.str.strip_chars().cast(pl.Float64, strict=False)
    return value.cast(TYPES[column.type], strict=False)


def _scan_table(folder: Path, name: str) -> pl.LazyFrame | None:
    for kind, scan in (("parquet", pl.scan_parquet), ("csv", _scan_csv)):
        single, many = folder / f"{name}.{kind}", folder / name
        if single.is_file():
            return _readable(scan(single), single)
        if many.is_dir() and (files := sorted(many.glob(f"*.{kind}"))):
            return _readable(scan(files), many)
    return None


def _readable(frame: pl.LazyFrame, path: Path) -> pl.LazyFrame:
    with readable(str(path)):
        frame.collect_schema()
    return frame


@contextmanager
def readable(where: str) -> Iterator[None]:
    """What Polars cannot read becomes a DataError of one line."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"tables: {where} cannot be read: {str(error).strip().splitlines()[0]}") from error


def _scan_csv(source: Path | list[Path]) -> pl.LazyFrame:
    return pl.scan_csv(source, infer_schema=False)


def _wanted(schema: Schema) -> str:
    return ", ".join(t.name for t in schema.tables.values() if t.required)
