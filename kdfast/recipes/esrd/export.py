"""A student as files a clinic can run: torch.export (NAME.pt2) and ONNX (NAME.onnx), checked against the
module. Neither needs kdfast to run.

Both read raw cells [people, steps, features] with NaN for "not measured", in the order and units that
NAME_features.json lists, and give calibrated probabilities [people].
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.esrd.evaluation import Platt
from kdfast.recipes.esrd.grid import STEP_MONTHS, Feature
from kdfast.recipes.esrd.models.students import exportable


class Deployed(nn.Module):
    """A risk network with its calibration: raw cells -> probability."""

    def __init__(self, network: nn.Module, platt: Platt) -> None:
        super().__init__()
        self.network, self.platt = network, platt
        self.register_buffer("slope", torch.tensor(platt.slope))
        self.register_buffer("intercept", torch.tensor(platt.intercept))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.slope * self.network(x) + self.intercept)

    def plain(self) -> Deployed:
        """The same of torch's own operations."""
        return Deployed(exportable(self.network), self.platt).eval()


def export_student(
    out: RunFolder,
    name: str,
    model: Deployed,
    x: np.ndarray,
    features: Sequence[Feature],
    notes: dict[str, object],
) -> dict[str, float]:
    """Write the files called `name`; largest difference of each to the module on people x [n, T, F].
    ONNX only where it is installed.
    """
    model, plain = model.eval(), model.plain()
    sample = torch.from_numpy(x[:2].copy())
    people = {0: torch.export.Dim("people", min=1)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*were assigned during export.*")  # torch's own GRU
        program = torch.export.export(plain, (sample,), dynamic_shapes=(people,))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    out.write(f"{name}.pt2", buffer.getvalue())
    document = {
        "features": [asdict(f) for f in features],
        "steps": x.shape[1],
        "step_months": STEP_MONTHS,
        **notes,
    }
    out.write(f"{name}_features.json", json.dumps(document, indent=1) + "\n")
    runs = {"torch.export": torch.export.load(io.BytesIO(buffer.getvalue())).module()}
    if (onnx := _onnx(plain, sample, people)) is not None:
        out.write(f"{name}.onnx", onnx)
        runs["ONNX"] = _onnx_run(onnx)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
        return {
            kind: float(np.abs(_array(run(torch.from_numpy(x))) - expected).max())
            for kind, run in runs.items()
        }


def _onnx(model: nn.Module, sample: Tensor, people: dict) -> bytes | None:
    """The model as ONNX, or None without onnx, onnxscript and onnxruntime."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        return None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "student.onnx")
        names = {"input_names": ["cells"], "output_names": ["risk"]}
        options = {"dynamo": True, "dynamic_shapes": (people,), "verbose": False}
        program = torch.onnx.export(model, (sample,), **names, **options)
        program.save(path, external_data=False)
        return path.read_bytes()


def _onnx_run(model: bytes) -> Callable[[Tensor], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(["risk"], {"cells": x.numpy()})[0]


def _array(value: Tensor | np.ndarray) -> np.ndarray:
    return value.numpy() if isinstance(value, Tensor) else value
