"""What part of a step DHO's KL terms are, beside plain PyTorch on the same tensors."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast.recipes.common.share import measure_share
from kdfast.recipes.dho.losses import UNLABELED

if TYPE_CHECKING:
    from kdfast.recipes.dho.recipe import DhoStudy


def loss_share(study: DhoStudy) -> dict[str, Any]:
    """Of the first seed's Distiller, on a batch that is half labelled; see measure_share."""
    options, images = study.options, study.images
    device, count = options.torch_device(), min(2 * options.batch_size, len(images.train))
    pixels = torch.stack([images.train[row][0] for row in range(count)]).to(device)
    target = images.labels[:count].clone()
    target[count // 2 :] = UNLABELED
    made = study.first.to(device).train()
    before = copy.deepcopy(made.state_dict())  # the measured steps move the batch norms' statistics
    replay = None
    if options.replays:
        outputs = study.networks["teacher"].logits(study.teacher.embeddings("train", range(count)))
        replay = {"": outputs.to(device)}
    terms = {term.name: partial(plain_kl, term.loss.labeled, options.temperature) for term in made.terms}
    found = study.out.result(
        "loss-share", lambda: measure_share(made, (pixels,), target.to(device), terms, replay=replay)
    )
    made.load_state_dict(before)
    made.cpu().eval()
    return found


def plain_kl(
    half: bool | None, temperature: float, student: Tensor, teacher: Tensor, target: Tensor
) -> Tensor:
    """HalfKL in plain PyTorch."""
    if half is not None:
        rows = (target != UNLABELED) == half
        student, teacher = student[rows], teacher[rows]
    log_q, log_p = ((x / temperature).log_softmax(-1) for x in (student, teacher))
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
