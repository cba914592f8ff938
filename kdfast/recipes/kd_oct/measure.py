"""What a network costs to keep and to run, and the student as files that run without kdfast."""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdfast.recipes.common import sections
from kdfast.recipes.common.folder import RunFolder


def costs(
    network: nn.Module, example: Tensor, *, device: str, rounds: int = 20, batch: int = 32
) -> dict[str, float]:
    """In float32: parameters, megabytes, multiply-adds of one image, latency p50 and p95 of one image and of
    a batch (ms), images a second in the batch. `example`: [1, 3, S, S]. By the clock, after warm-up.
    """
    network = copy.deepcopy(network).to(device).float().eval()
    parameters, multiply_adds = sections.size(network, example.to(device))
    bytes_ = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    found = {"parameters": parameters, "megabytes": bytes_ / 2**20, "multiply_adds": multiply_adds}
    for size in (1, batch):
        times = _times(network, example.to(device).expand(size, -1, -1, -1).contiguous(), rounds)
        found |= {
            f"p50_ms_{size}": float(np.median(times)),
            f"p95_ms_{size}": float(np.quantile(times, 0.95)),
        }
    found["images_per_second"] = batch / found[f"p50_ms_{batch}"] * 1e3
    return found


@torch.inference_mode()
def _times(network: nn.Module, images: Tensor, rounds: int) -> list[float]:
    found = []
    for turn in range(rounds + 3):
        if images.is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        network(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        if turn >= 3:
            found.append((time.perf_counter() - start) * 1e3)
    return found


def export(out: RunFolder, network: nn.Module, images: Tensor) -> dict[str, float]:
    """Write student.pt2 (torch.export) and student.onnx, for any batch, and run both on images [B, 3, S, S].

    Returns:
        The largest difference of each to the network's softmax.
    """
    network = copy.deepcopy(network).cpu().eval()
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (images[:2],), dynamic_shapes=(batch,))
        stored = io.BytesIO()
        torch.export.save(program, stored)
        onnx = _onnx(network, images[:2], batch)
        expected = network(images).softmax(1)
        exported = torch.export.load(io.BytesIO(stored.getvalue())).module()(images).softmax(1)
        ran = torch.from_numpy(_run_onnx(onnx, images)).softmax(1)
    out.write("student.pt2", stored.getvalue())
    out.write("student.onnx", onnx)
    return {
        "torch.export": float((exported - expected).abs().max()),
        "ONNX": float((ran - expected).abs().max()),
    }


def _onnx(network: nn.Module, images: Tensor, batch: dict[int, object]) -> bytes:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "student.onnx")
        made = torch.onnx.export(network, (images,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
        made.save(path, external_data=False)
        return path.read_bytes()


def _run_onnx(model: bytes, images: Tensor) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
