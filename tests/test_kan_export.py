"""KAN in other hands: torch.export's files, ONNX Runtime, torch.func's transforms."""

import io

import numpy as np
import pytest
import torch

import kdfast
from kdfast.nn import KAN

ROWS = torch.export.Dim("rows")


@pytest.fixture
def model() -> KAN:
    torch.manual_seed(0)
    return KAN([4, 6, 2]).eval()


def test_an_exported_program_is_saved_loaded_and_takes_any_number_of_rows(model, need):
    need.backend("native")
    program = torch.export.export(model, (torch.randn(5, 4),), dynamic_shapes=({0: ROWS},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    x = torch.randn(9, 4)
    torch.testing.assert_close(torch.export.load(file).module()(x), model(x))


def test_onnx_from_the_definition(model, need, tmp_path):
    """ONNX has no splines: the reference backend is made of operators that it has."""
    need.module("onnxruntime")
    need.module("onnxscript")
    import onnxruntime

    with kdfast.use("reference"):
        program = torch.onnx.export(
            model, (torch.randn(5, 4),), dynamic_shapes=({0: ROWS},), dynamo=True, verbose=False
        )
    program.save(tmp_path / "kan.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "kan.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(9, 4) * 1.5
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_transforms_of_torch_func(model):
    """vmap over weights, gradients sample by sample, Jacobians and Hessians."""
    x = torch.randn(5, 4)
    model = model.double()
    x = x.double() * 0.3

    def with_weight(weight, x):
        given = dict(model.named_parameters()) | {"0.spline_weight": weight}
        return torch.func.functional_call(model, given, (x,))

    weights = torch.stack([model[0].spline_weight.detach() * k for k in (1.0, 2.0, -1.0)])
    each = torch.stack([with_weight(w, x) for w in weights])
    torch.testing.assert_close(torch.vmap(with_weight, in_dims=(0, None))(weights, x), each)
    jacobian = torch.vmap(torch.func.jacrev(lambda row: model(row[None])[0]))(x)
    expected = torch.autograd.functional.jacobian(lambda x: model(x).sum(0), x).permute(1, 0, 2)
    torch.testing.assert_close(jacobian, expected)
    row = x[0].clone()
    bent = torch.func.jacrev(torch.func.jacrev(lambda row: model(row[None]).sum()))(row)
    expected = torch.autograd.functional.hessian(lambda row: model(row[None]).sum(), row)
    torch.testing.assert_close(bent, expected)
