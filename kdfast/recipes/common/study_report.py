"""A Study's report: scores, curves, loss terms, step times, the loss's share of a step, settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdfast.recipes.common import sections
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.share import measure_share

if TYPE_CHECKING:
    from kdfast.recipes.common.study import Study

Plain = Mapping[str, Callable[..., Tensor]]  # term's name -> the same loss in plain PyTorch


def report_of(
    study: Study,
    title: str,
    *,
    text: str = "",
    note: str = "",
    plain: Plain | None = None,
    share_note: str = "",
    more: Callable[[Report], None] | None = None,
) -> Report:
    """The report, not yet written.

    Args:
        text: under the title. note: under the scores.
        plain: of the first method's terms; without it the loss's share is left out.
        share_note: under the loss's share.
        more: adds the recipe's own sections, before the settings.
    """
    images, out = study.images, study.out
    report = Report(title, subtitle=f"{images.source} · {out.path}")
    if text:
        report.text("", text)
    sizes = {name: sections.size(net, images.example()) for name, net in study.networks.items()}
    sections.add_scores(report, study.scores, "test accuracy", sizes, note=f"{note} {_note(study)}".strip())
    sections.add_curves(report, out, "val_accuracy", "Validation accuracy", ylabel="accuracy", percent=True)
    sections.add_terms(report, out)
    sections.add_step_times(report, out)
    if plain is not None:
        first = next(iter(study.distillers))
        sections.add_loss_share(report, loss_share(study, first, plain), note=share_note)
    if more is not None:
        more(report)
    sections.add_settings(report, study.options)
    return report


def loss_share(study: Study, name: str, plain: Plain) -> dict[str, Any]:
    """What part of a step the losses of method `name` are, beside `plain` PyTorch; see measure_share."""
    options, images = study.options, study.images
    device, count = options.torch_device(), min(options.batch_size, len(images.train))
    rows = [images.train[row] for row in range(count)]
    pixels = torch.stack([image for image, _ in rows]).to(device)
    target = torch.tensor([label for _, label in rows], device=device)
    distiller = study.distillers[name].to(device).train()
    return study.out.result("loss-share", lambda: measure_share(distiller, (pixels,), target, plain))


def _note(study: Study) -> str:
    images, share = study.images, study.options.label_share
    train, held, test = (f"{len(part):,}" for part in (images.train, images.validation, images.test))
    seen = len(images.few(share, study.options.seed))
    few = f"The students get {seen:,} of the labels ({share:.0%}). " if share < 1 else ""
    bad = f"{len(images.bad)} images could not be read and were left out. " if images.bad else ""
    return (
        f"{train} training, {held} validation and {test} test images. {few}{bad}The test images are "
        "looked at once, after training; nothing was chosen by them."
    )
