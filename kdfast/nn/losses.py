"""Every loss of kdfast.functional as a module: a subclass of torch's `_Loss` with the function's option
names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.modules.loss import _Loss

import kdfast.functional as KF


class _FunctionLoss(_Loss):
    """A loss whose options are the keyword-only options of a function, kept as attributes."""

    function: ClassVar[Callable[..., Any]]
    # Keywords that belong to a call, not to the module.
    per_call: ClassVar[tuple[str, ...]] = ("mask",)

    def __init__(self, **options: Any) -> None:
        defaults = self._defaults()
        for name in options:
            if name not in defaults:
                raise TypeError(
                    f"{type(self).__name__} has no option {name!r}; it takes {', '.join(defaults)}"
                )
        super().__init__()
        for name, default in defaults.items():
            setattr(self, name, options.get(name, default))

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        parameters = inspect.signature(cls.function).parameters.values()
        return {
            p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in cls.per_call
        }

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._defaults())

    def forward(self, *inputs: Tensor, **per_call: Any) -> Any:
        options = {name: getattr(self, name) for name in self._defaults()}
        return type(self).function(*inputs, **options, **per_call)


class KLDivLoss(_FunctionLoss):
    """kdfast.functional.kl_div as a module: KLDivLoss(temperature=4.0)(student, teacher, mask=None)."""

    function = staticmethod(KF.kl_div)


class ReverseKLDivLoss(_FunctionLoss):
    """kdfast.functional.reverse_kl_div as a module."""

    function = staticmethod(KF.reverse_kl_div)


class JSDivLoss(_FunctionLoss):
    """kdfast.functional.js_div as a module."""

    function = staticmethod(KF.js_div)


class SkewKLDivLoss(_FunctionLoss):
    """kdfast.functional.skew_kl_div as a module."""

    function = staticmethod(KF.skew_kl_div)


class TVDistLoss(_FunctionLoss):
    """kdfast.functional.tv_dist as a module."""

    function = staticmethod(KF.tv_dist)
