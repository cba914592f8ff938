"""Feature selection with Kolmogorov-Arnold networks, as scikit-learn estimators.

`KANSelector` is the estimator; `kdfast.select.scores` holds the four scores for a network of your own.
"""

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "kdfast.select needs scikit-learn, which is not installed: pip install 'kdfast[select]'",
        name="sklearn",
    ) from error

from kdfast.select.kan_selector import KANSelector

__all__ = ["KANSelector"]
