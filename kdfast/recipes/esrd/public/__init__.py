"""Real public cohorts through the same code: not CKD to ESRD, but real records, real outcomes, real flaws.

- nafld: 17,549 people with laboratory results and diagnoses over time; death within eight years.
- support2: 9,105 seriously ill people, physiology on the third day, race; death within 180 days.
- flchain: 7,874 people over 50 with creatinine and free light chains; death within five years.
- uci_ckd: 400 people of one hospital; the diagnosis itself, so a test of the plumbing and no prediction.

The first three travel in wheels of the package index, which are read as files and never installed; the last
lies in the shared data folder.
"""

from collections.abc import Callable

from kdfast.recipes.esrd.public.nafld import nafld
from kdfast.recipes.esrd.public.static import flchain, support2, uci_ckd
from kdfast.recipes.esrd.study import Study

PUBLIC: dict[str, Callable[[], Study]] = {
    "nafld": nafld,
    "support2": support2,
    "flchain": flchain,
    "uci_ckd": uci_ckd,
}


def load_public(name: str) -> Study:
    """A public study by name. DataUnavailable where its data cannot be had."""
    if name not in PUBLIC:
        raise ValueError(f"cohort must be one of {', '.join(PUBLIC)}, got {name!r}")
    return PUBLIC[name]()


__all__ = ["PUBLIC", "load_public"]
