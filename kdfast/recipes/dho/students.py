"""Fresh students: a network of timm, torchvision or the CIFAR papers, or a CLIP's image tower, and heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdfast.recipes.common import models, network_parts
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.image_set import ImageSet
from kdfast.recipes.dho import vision_language
from kdfast.recipes.dho.heads import DualHead, HeadedStudent
from kdfast.recipes.dho.options import Options
from kdfast.recipes.dho.teacher import Prepare
from kdfast.recipes.dho.zero_shot import class_embeddings


class Resize(nn.Module):
    """Images [N, C, S, S] -> [N, C, size, size], averaged."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)


class StudentFactory:
    """Fresh students: a backbone whose classifier is taken off, and a head."""

    def __init__(self, options: Options, images: ImageSet) -> None:
        self.options, self.images = options, images
        self.is_clip = vision_language.is_vision_language(options.student)
        if options.init_text and not self.is_clip:
            raise UserError(
                "--init-text: the student must be a vision-language model, open_clip:... or transformers:..."
            )
        if not self.is_clip:
            self.spec = models.parse("--student", options.student)

    def make(self, head: Callable[..., nn.Module] | None, labeled: int = 0) -> nn.Module:
        """With `head(width, classes)`: a HeadedStudent; None: a network with one linear classifier.

        labeled: rows of a batch that have a label, for --separate.
        """
        backbone, width = self._clip() if self.is_clip else self._plain()
        classes = len(self.images.classes)
        if head is None:
            return nn.Sequential(backbone, nn.Linear(width, classes))
        return HeadedStudent(backbone, head(width, classes), split=labeled if self.options.separate else 0)

    def dual(self, width: int, classes: int) -> DualHead:
        """DHO's heads as the options say."""
        text = None
        if self.options.init_text:
            how = "renormalize" if self.options.normalize_text else "mean"
            text = class_embeddings(
                self._model.encode_text, self.images.classes, self.options.templates, how=how
            )
        return DualHead(width, classes, align_kd=self.options.align_kd, init_text=text)

    def _plain(self) -> tuple[nn.Module, int]:
        network = models.create(
            self.spec, classes=len(self.images.classes), channels=self.images.channels,
            size=self.options.student_size or self.images.size, pretrained=self.options.student_pretrained,
        )  # fmt: skip
        path = network_parts.classifier_name(network)
        width = network.get_submodule(path).in_features
        parent, _, last = path.rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Identity())
        if self.options.student_size not in (0, self.images.size):
            network = nn.Sequential(Resize(self.options.student_size), network)
        return network.to(memory_format=torch.channels_last), width  # in which convolutions are fastest

    def _clip(self) -> tuple[nn.Module, int]:
        self._model = model = vision_language.load("--student", self.options.student)
        given = (self.images.mean, self.images.std)
        prepare = Prepare(given, (model.mean, model.std), model.size)
        return nn.Sequential(prepare, model.encoder.float().train().requires_grad_(True)), model.width
