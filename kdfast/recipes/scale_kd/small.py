"""Vision transformers for images of 8 x 8 to 32 x 32, as names of timm: teachers that train in minutes on a
CPU.

swin_mini    patches of 2, two stages of 32 and 64 channels, 135,000 parameters; of images of 28 x 28 the
             stages have 14 x 14 and 7 x 7 tokens, the grids of Swin-L at 224
vit_mini     patches of 4, six blocks of 64 channels, 300,000 parameters
"""

from __future__ import annotations

from typing import Any

from timm.models import SwinTransformer, VisionTransformer, register_model

_BUILDER = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # what create_model gives to every model


def _options(given: dict[str, Any], **own: Any) -> dict[str, Any]:
    return own | {name: value for name, value in given.items() if name not in _BUILDER}


def _refuse(name: str, pretrained: bool) -> None:
    if pretrained:
        raise RuntimeError(f"{name} has no pretrained weights")


@register_model
def swin_mini(pretrained: bool = False, **given: Any) -> SwinTransformer:
    """Two stages of two blocks; see the file's first lines."""
    _refuse("swin_mini", pretrained)
    own = {"img_size": 28, "patch_size": 2, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4)}
    return SwinTransformer(**_options(given, window_size=7, drop_path_rate=0.1, **own))


@register_model
def vit_mini(pretrained: bool = False, **given: Any) -> VisionTransformer:
    """Six blocks; see the file's first lines."""
    _refuse("vit_mini", pretrained)
    own = {"img_size": 28, "patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 4}
    return VisionTransformer(**_options(given, drop_path_rate=0.1, **own))
