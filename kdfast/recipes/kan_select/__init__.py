"""Feature selection with Kolmogorov-Arnold networks (Akazan and Mbingui, arXiv 2509.23366), judged on tables.

    tables       scikit-learn's and KEEL's data sets, your CSV file
    rankings     LASSO, mutual information, permuted forest, SVM-RFE; ours are kdfast.select.KANSelector
    predictors   what judges a choice of features: linear model, forest, boosting, XGBoost
    protocol     folds without leakage; the paper's own protocol beside it
    published    the paper's figures

`kdfast distill kan_select` compares the selectors at 20, 40 and 60 % of the features.
"""

from kdfast.recipes.kan_select.recipe import Options, run
from kdfast.recipes.kan_select.tables import TABLES, Table, load, read_csv
from kdfast.select import KANSelector

__all__ = ["TABLES", "KANSelector", "Options", "Table", "load", "read_csv", "run"]
