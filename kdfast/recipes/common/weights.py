"""student.safetensors: weights anyone can load, with a note of where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors.torch
from torch import nn

from kdfast.recipes.common.folder import RunFolder


def save_weights(out: RunFolder, name: str, module: nn.Module, metadata: Mapping[str, object]) -> None:
    """Write the state dict of `module` to OUT/`name`; tied weights are written under each of their names.

    Args:
        name: file name, "student.safetensors" for the model that a run is for.
        metadata: printable facts (recipe, architecture, data); no times, so that equal weights give equal
            files.
    """
    note = json.dumps({key: str(value) for key, value in metadata.items()}, sort_keys=True)
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in module.state_dict().items()}
    out.write(name, safetensors.torch.save(state, {"kdfast": note}))  # one entry: several come in any order
