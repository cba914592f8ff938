"""report.html of `kdfast distill scale_kd`: scores, terms, whether they fall, what training costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdfast.recipes.common import sections
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.study import Study
from kdfast.recipes.scale_kd.options import Options

TITLE = "ScaleKD: a vision transformer teaches {student}"
SMALL_NOTE = (
    "Of few channels a call costs more than its arithmetic; kdfast bench normalized_mse has larger sizes."
)
VIEWS = ("spat_3", "alt_3", "spat_4", "alt_4")


def write_report(study: Study, options: Options) -> None:
    """Write OUT/report.html."""
    out = study.out
    plain = {name: partial(plain_view, center=name.startswith("alt"), eps=options.eps) for name in VIEWS}
    seen = "was trained on all training images" if options.teacher_epochs else "is used as it was given"
    report = study.report(
        TITLE.format(student=options.student), plain=plain | {"kd": partial(plain_kd, options.temperature)},
        note=f"The teacher, {options.teacher}, {seen}.", share_note=SMALL_NOTE,
        more=lambda report: (add_falls(report, out), add_cost(report, study)),
    )  # fmt: skip
    report.write(out)


def plain_view(student: Tensor, teacher: Tensor, *, center: bool, eps: float) -> Tensor:
    """ViewLoss in plain PyTorch, for teachers without class tokens."""
    teacher = teacher.flatten(1, 2) if teacher.dim() == 4 else teacher[:, -student.size(1) :]
    s, t = (x - x.mean(1, keepdim=True) if center else x for x in (student, teacher))
    s, t = (F.normalize(x, dim=-1, eps=eps) for x in (s, t))
    return (s - t).square().sum() / len(s)


def plain_kd(temperature: float, student: Tensor, teacher: Tensor) -> Tensor:
    """SoftCrossEntropy in plain PyTorch."""
    return temperature**2 * F.cross_entropy(student / temperature, (teacher / temperature).softmax(-1))


def add_falls(report: Report, out: RunFolder) -> None:
    """Each loss term's first and last epoch."""
    records = [r for r in out.records() if sections.group(r["stage"]) == "distilled"]
    last = max(record["epoch"] for record in records)
    rows = []
    for term in records[0]["terms"]:
        first, final = (_mean(records, epoch, lambda r, term=term: r["terms"][term]) for epoch in (1, last))
        rows.append((term, f"{first:.3f}", f"{final:.3f}", f"{final / first - 1:+.0%}"))
    note = "Means over the seeds, before the terms' weights; spat and alt are at most 4 a position."
    report.table(
        "Do the losses fall?", ("term", "epoch 1", f"epoch {last}", "change"), rows, half=True, note=note
    )


def _mean(records: list[dict[str, Any]], epoch: int, value: Callable[[dict[str, Any]], float]) -> float:
    found = [value(record) for record in records if record["epoch"] == epoch]
    return sum(found) / len(found)


def add_cost(report: Report, study: Study) -> None:
    """What the projectors add to training; they are not part of the student."""
    distiller = study.distillers["distilled"].cpu()
    images = study.images.example()
    sizes = {name: sections.size(net, images) for name, net in study.networks.items() if name != "student"}
    wrapped = distiller.student
    with wrapped.projecting():
        _, whole = sections.size(wrapped, images)
    caps = sum(p.numel() for p in wrapped.projectors.parameters())
    rows = [
        ("student", *sizes["distilled"]),
        ("projectors, and the teacher's last part behind them", caps, whole - sizes["distilled"][1]),
        ("teacher", *sizes["teacher"]),
    ]
    note = (
        f"{len(wrapped.projectors.caps)} projectors, trained with the student and then left behind. Forward "
        "pass of one image; the last part is the teacher's, its parameters are not counted again."
    )
    rows = [(name, f"{count:,}", f"{adds:,}") for name, count, adds in rows]
    report.table("What training costs", ("part", "parameters", "multiply-adds"), rows, half=True, note=note)
