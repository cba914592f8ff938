"""Models of the outcome: tabular ones on summaries of the window, networks on its steps. `make_model` by
name.
"""

from kdfast.recipes.esrd.models.estimators import (
    GRIDS,
    MODELS,
    Model,
    NetworkModel,
    TabularModel,
    make_model,
    network_logits,
)
from kdfast.recipes.esrd.models.network import RiskNetwork
from kdfast.recipes.esrd.models.preparer import Preparer
from kdfast.recipes.esrd.models.tabular import TABULAR, TREES
from kdfast.recipes.esrd.models.training import RiskTraining, Settings

__all__ = [
    "GRIDS",
    "MODELS",
    "TABULAR",
    "TREES",
    "Model",
    "NetworkModel",
    "Preparer",
    "RiskNetwork",
    "RiskTraining",
    "Settings",
    "TabularModel",
    "make_model",
    "network_logits",
]
