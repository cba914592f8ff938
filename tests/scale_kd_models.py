"""Tiny teachers and students of timm for the tests of ScaleKD."""

import timm
import torch

from kdfast.recipes import scale_kd

SIDE = 32


def swin(**options):
    torch.manual_seed(0)
    small = {"img_size": SIDE, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 1, 2)}
    model = timm.models.SwinTransformer(num_heads=(1, 2, 4), num_classes=5, **small | options)
    return model


def swin_v2():
    small = {"img_size": SIDE, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 1, 2)}
    return timm.models.SwinTransformerV2(num_heads=(1, 2, 4), num_classes=5, **small)


def vit(kind=None, **options):
    torch.manual_seed(0)
    kind = kind or timm.models.VisionTransformer
    small = {"img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 6, "num_heads": 2, "num_classes": 5}
    return kind(**small | options)


def beit(**options):
    return vit(timm.models.Beit, use_abs_pos_emb=False, use_rel_pos_bias=True, **options)


def cnn():
    torch.manual_seed(1)
    return timm.create_model("resnet10t", num_classes=5)


def distiller(student=None, teacher=None, **options):
    """By default a ResNet seen at 4 x 4 and 2 x 2: images of 32 leave 1 x 1 of its last map."""
    if student is None:
        options.setdefault("student_taps", ("layer2", "layer3"))
    return scale_kd.ScaleKD(student or cnn(), teacher or swin(), torch.randn(2, 3, SIDE, SIDE), **options)


def batch(count=4):
    torch.manual_seed(2)
    return torch.randn(count, 3, SIDE, SIDE), torch.randint(5, (count,))
