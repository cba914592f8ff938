"""Module paths: "layer3.0" is a submodule, "" the model, "layer3.0[1]" and "[logits]" items of their outputs.

An item in brackets is a number (a position) or a name (a key, or an attribute); several may follow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_ITEMS = re.compile(r"^(?P<module>.*?)(?P<items>(?:\[[^\[\]]+\])*)$", re.DOTALL)


def split_path(path: str) -> tuple[str, tuple[int | str, ...]]:
    """ "neck.0[1][logits]" -> ("neck.0", (1, "logits"))."""
    match = _ITEMS.match(path)
    items = re.findall(r"\[([^\[\]]+)\]", match["items"])
    return match["module"], tuple(int(i) if re.fullmatch(r"-?\d+", i) else i for i in items)


def find_module(model: nn.Module, path: str, role: str = "model") -> nn.Module:
    """The submodule that `path` names, items aside; ValueError with the nearest names where there is none."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for candidate in (path, split_path(path)[0]):  # a module's own name may have brackets
        if candidate in modules:
            return modules[candidate]
    near = difflib.get_close_matches(candidate, modules, n=4, cutoff=0.5)
    tail = candidate.rpartition(".")[2]
    near += [name for name in modules if name.rpartition(".")[2] == tail and name not in near][:4]
    names = near or [name for name, _ in model.named_children()]
    hint = "close matches" if near else "its children"
    raise ValueError(
        f"{role} {type(model).__name__} has no module {candidate!r}; {hint}: "
        f"{', '.join(map(repr, names)) or 'none'}"
    )


def select(value: Any, items: tuple[int | str, ...], path: str) -> Any:
    """Follow the items of a path into what a module returned; ValueError where one is not there."""
    for item in items:
        try:
            if isinstance(item, str) and not isinstance(value, Mapping):
                value = getattr(value, item)
            else:
                value = value[item]
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            raise ValueError(f"path {path!r}: there is no item [{item}] in {describe(value)}") from error
    return value


def describe(value: Any) -> str:
    """What a module returned, in a few words, for an error message."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with keys {', '.join(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(describe(item) for item in value[:4])})"
    return f"a {type(value).__name__}"
