"""Synthetic people with linked clinical and claims records, whose risk is known: see truth.py and
records.py.
"""

from kdfast.recipes.esrd.synthetic.records import make_tables, write_tables
from kdfast.recipes.esrd.synthetic.truth import EFFECTS, NULL_FEATURES, Truth, simulate

__all__ = ["EFFECTS", "NULL_FEATURES", "Truth", "make_tables", "simulate", "write_tables"]
