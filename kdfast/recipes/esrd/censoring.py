"""Weights for people whose follow-up ended before their label was known."""

from __future__ import annotations

import numpy as np


def censoring_weights(stop: np.ndarray, lost: np.ndarray, last: float) -> np.ndarray:
    """[n] 1 / P(follow-up lasts until the label is known), by Kaplan and Meier with leaving as the event.

    Args:
        stop: [n] day of outcome, death or end of follow-up, whichever comes first.
        lost: [n] bool, whether that was the end of follow-up.
        last: day on which the horizon ends; whoever is seen so long has a known label.

    A label is known just before `min(stop, last)`; the weight of those whose label is not known is unused.
    At most 1000, so that the very last to be seen do not stand for everybody.
    """
    times, inverse = np.unique(stop, return_inverse=True)
    ends = np.bincount(inverse, weights=lost)
    at_risk = np.bincount(inverse)[::-1].cumsum()[::-1]
    stays = np.concatenate([[1.0], np.cumprod(1 - ends / at_risk)])  # just before times[i]; after the last
    known = stays[np.searchsorted(times, np.minimum(stop, last), side="left")]
    return 1 / np.maximum(known, 1e-3)
