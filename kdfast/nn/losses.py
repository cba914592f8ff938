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
        missing = [
            name
            for name, default in defaults.items()
            if default is inspect.Parameter.empty and name not in options
        ]
        if missing:
            raise TypeError(f"{type(self).__name__} needs the option {missing[0]!r}")
        super().__init__()
        for name, default in defaults.items():
            value = options.get(name, default)
            if isinstance(value, Tensor) or name == "weight":
                self.register_buffer(name, value)  # moves with the module, as in torch's weighted losses
            else:
                setattr(self, name, value)

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        parameters = inspect.signature(cls.function).parameters.values()
        return {
            p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in cls.per_call
        }

    def extra_repr(self) -> str:
        options = {name: getattr(self, name) for name in self._defaults()}
        return ", ".join(f"{name}={x!r}" for name, x in options.items() if not isinstance(x, Tensor))

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


class CrossEntropyKLDivLoss(_FunctionLoss):
    """kdfast.functional.cross_entropy_kl_div as a module: (student, teacher, target, mask=None) -> (ce,
    kl).
    """

    function = staticmethod(KF.cross_entropy_kl_div)


class SoftCrossEntropyLoss(_FunctionLoss):
    """kdfast.functional.soft_cross_entropy as a module: (student, teacher_probs, mask=None)."""

    function = staticmethod(KF.soft_cross_entropy)


class DKDLoss(_FunctionLoss):
    """kdfast.functional.dkd_loss as a module: DKDLoss(alpha=1.0, beta=8.0)(student, teacher, target)."""

    function = staticmethod(KF.dkd_loss)


class DISTLoss(_FunctionLoss):
    """kdfast.functional.dist_loss as a module: DISTLoss(temperature=4.0)(student, teacher)."""

    function = staticmethod(KF.dist_loss)


class FocalLoss(_FunctionLoss):
    """kdfast.functional.focal_loss as a module: FocalLoss(gamma=2.0, weight=w)(logits, target)."""

    function = staticmethod(KF.focal_loss)


class TopKKLDivLoss(_FunctionLoss):
    """kdfast.functional.topk_kl_div as a module: (student, teacher_log_probs, teacher_indices, mask=None)."""

    function = staticmethod(KF.topk_kl_div)


class LinearKLDivLoss(_FunctionLoss):
    """kdfast.functional.linear_kl_div as a module.

    LinearKLDivLoss(temperature=2.0)(student_hidden, student_weight, teacher_hidden, teacher_weight,
    student_bias=None, teacher_bias=None, mask=None)
    """

    function = staticmethod(KF.linear_kl_div)
    per_call = ("mask", "student_bias", "teacher_bias")


class UnbiasedKLDivLoss(_FunctionLoss):
    """kdfast.functional.unbiased_kl_div as a module: UnbiasedKLDivLoss(num_new=5)(student, teacher)."""

    function = staticmethod(KF.unbiased_kl_div)
