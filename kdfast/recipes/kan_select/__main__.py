"""`python -m kdfast.recipes.kan_select` lists the data sets."""

from kdfast.recipes.kan_select.tables import TABLES, load

if __name__ == "__main__":
    for name in TABLES:
        table = load(name)
        rows, columns = table.x.shape
        print(f"{name:<20} {table.task:<15} {rows:>6} x {columns:<4} {table.source}")
