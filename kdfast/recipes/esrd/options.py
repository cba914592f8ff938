"""The options of `kdfast distill esrd`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdfast.recipes.common.options import RunOptions, require_positive
from kdfast.recipes.esrd.cohort import WINDOWS
from kdfast.recipes.esrd.models import MODELS, TREES, Settings


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill esrd`. The paper's data are private; defaults suit the small synthetic
    cohort.
    """

    cohort: Literal["synthetic", "tables", "nafld", "support2", "flchain", "uci_ckd"] = "synthetic"
    """synthetic people with planted risks, your own tables (--tables), or a public cohort"""

    tables: str = ""
    """folder with patients, labs, diagnoses, ... as CSV or Parquet (python -m kdfast.recipes.esrd.schema)"""

    codes: str = ""
    """YAML file of code sets in place of the recipe's own codes.yaml"""

    people: int = 2500
    """how many synthetic people"""

    window: int = 24
    """months of observation of the main analysis; the paper found 24 best on its data"""

    horizon: int = 0
    """months after the window in which the outcome counts; 0: the study's own, 24 for ESRD"""

    models: str = "logistic,xgboost,lstm"
    """models to compare, comma separated, or all: logistic, random_forest, xgboost, lightgbm, mlp, cnn,
    rnn, gru, lstm, bilstm, tcn, transformer
    """

    folds: int = 3
    """outer folds of nested cross-validation"""

    inner: int = 3
    """inner folds, for settings, calibration and threshold"""

    tune: bool = False
    """choose each model's settings from its grid by the inner folds"""

    equation: Literal["2021", "2009"] = "2021"
    """eGFR equation of the features"""

    race_feature: bool = False
    """let models see race, as the paper's do; without it race can act through an equation's race term only"""

    censoring: Literal["ipcw", "exclude"] = "ipcw"
    """people whose follow-up ends early: weigh similar ones up, or only leave them out"""

    death: Literal["negative", "exclude"] = "negative"
    """people who die before the outcome: count as without it, or leave out"""

    imputation: Literal["median", "mice"] = "median"
    """of gaps left after a person's own values are carried along: the training people's median, or multiple
    imputation by chained equations; students always use the median"""

    imbalance: Literal["weight", "focal", "none"] = "weight"
    """of the classes: positives weighed by n_neg / n_pos, focal loss (networks), or nothing"""

    epochs: int = 8
    """passes of each network over its training people (the paper's code: up to 500 with early stopping)"""

    patience: int = 0
    """stop a network once the loss on a seventh of its training people has not fallen for so many epochs, and
    take its best weights; 0: train all epochs (the paper's code: 7)"""

    hidden: int = 24
    """width of the networks (the paper's code: 128)"""

    layers: int = 1
    """layers of the networks (the paper's code: 2)"""

    dropout: float = 0.2
    """of the networks"""

    lr: float = 3e-3
    """learning rate of the networks (the paper's code: 1e-3)"""

    batch_size: int = 32
    """people a step"""

    teacher: Literal["ensemble", "lstm"] = "ensemble"
    """what the students learn from: an LSTM, or the mean of it, a boosted and a logistic model"""

    students: str = "gru,kan"
    """small models to distil into, comma separated; the first becomes student.safetensors"""

    student_hidden: int = 8
    """width of the student GRU"""

    student_epochs: int = 30
    """passes of each student"""

    alpha: float = 0.5
    """share of the teacher in a student's loss"""

    temperature: float = 1.0
    """T; the teacher's logits are calibrated, so 1 keeps their meaning"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            people=self.people, epochs=self.epochs, hidden=self.hidden, layers=self.layers, lr=self.lr
        )
        require_positive(
            batch_size=self.batch_size, student_hidden=self.student_hidden, temperature=self.temperature
        )
        require_positive(student_epochs=self.student_epochs)
        _from_list("models", self.model_list(), MODELS)
        _from_list("students", self.student_list(), ("gru", "kan"))
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"option --alpha: a share between 0 and 1 is needed, got {self.alpha}")
        if self.patience < 0:
            raise ValueError(f"option --patience: 0 or more is needed, got {self.patience}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"option --dropout: a share from 0 to below 1 is needed, got {self.dropout}")
        for name in ("folds", "inner"):
            if getattr(self, name) < 2:
                raise ValueError(f"option --{name}: 2 or more is needed, got {getattr(self, name)}")
        if self.window not in WINDOWS:
            raise ValueError(
                f"option --window: one of {', '.join(map(str, WINDOWS))} is needed, got {self.window}"
            )
        if (self.cohort == "tables") != bool(self.tables):
            raise ValueError(
                f"option --tables: a folder is needed with --cohort tables, else none, got {self.tables!r}"
            )

    def model_list(self) -> list[str]:
        """Names of the compared models."""
        return (
            list(MODELS) if self.models == "all" else [m.strip() for m in self.models.split(",") if m.strip()]
        )

    def student_list(self) -> list[str]:
        """Names of the students."""
        return [s.strip() for s in self.students.split(",") if s.strip()]

    def settings(self) -> Settings:
        """Training settings of the compared networks and the teacher."""
        return Settings(
            epochs=self.epochs,
            patience=self.patience,
            lr=self.lr,
            batch_size=self.batch_size,
            imbalance=self.imbalance,
            imputation=self.imputation,
            temperature=self.temperature,
        )

    def student_settings(self) -> Settings:
        """Training settings of the students."""
        return Settings(
            epochs=self.student_epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            alpha=self.alpha,
            temperature=self.temperature,
        )

    def sizes(self) -> dict[str, float]:
        """Sizes of the compared networks and the teacher."""
        return {"hidden": self.hidden, "layers": self.layers, "dropout": self.dropout}

    def probe(self) -> str:
        """The quick model for ablations and equations: the first tree ensemble compared, else the first
        model.
        """
        names = self.model_list()
        return next((name for name in names if name in TREES), names[0])


def _from_list(option: str, given: list[str], known: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        what = repr(unknown[0]) if unknown else "nothing"
        raise ValueError(f"option --{option}: some of {', '.join(known)} are needed, got {what}")
