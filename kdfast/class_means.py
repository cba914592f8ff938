"""`kdfast class-means` (or `python -m kdfast.class_means`): builds a file of class means from any teacher
and any data.

Images: --teacher names a callable that returns a classifier (torchvision.models:resnet50), --layer the
module whose input is the embedding (its last Linear if not given), --data an ImageFolder or a callable that
returns a Dataset of (image, class).
RoIs: with --rois the teacher is a torchvision detector with roi_heads (Faster or Mask R-CNN), --data a
callable that returns a Dataset of (image, {"boxes" xyxy, "labels"}); embeddings are its box head's outputs
for sampled proposals, background included.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kdfast.nn.class_means import ClassMeans


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; bad options end it with one line and status 2."""
    given = _parser().parse_args(arguments)
    try:
        _check_options(given)
        means = build(given)
        means.save(given.out)  # before a class that was never seen is refused: the pass is not lost
        means.compute()
    except (ImportError, AttributeError, OSError, TypeError, ValueError, RuntimeError) as error:
        print("kdfast class-means:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(f"{given.out}: {means.num_classes} classes x {means.dim}, {int(means.counts.sum())} samples")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kdfast class-means", description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", required=True, help="package.module:callable that returns the teacher")
    parser.add_argument("--weights", type=Path, help="its state_dict: .safetensors or torch.save's")
    parser.add_argument("--layer", help="the module whose input is the embedding; default: the last Linear")
    parser.add_argument(
        "--data", required=True, help="an ImageFolder, or package.module:callable that returns a Dataset"
    )
    parser.add_argument(
        "--rois", action="store_true", help="a detector's box-head embeddings of sampled proposals"
    )
    parser.add_argument("--transform", choices=("train", "eval"), default="train",
                        help="of an ImageFolder; train augments, as the paper's code does")  # fmt: skip
    parser.add_argument("--size", type=int, default=224, help="of the images that an ImageFolder gives")
    parser.add_argument(
        "--num-classes", type=int, help="default: the folders of an ImageFolder, or the detector's own"
    )
    parser.add_argument(
        "--missing", choices=("error", "ignore"), default="error", help="what a class never seen means"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batches", type=int, help="stop after so many")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0, help="of augmentation and of proposal sampling")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    return parser


def _check_options(given: argparse.Namespace) -> None:
    """ValueError for what would fail after the pass over the data, or never end it."""
    for option in ("size", "num_classes", "batch_size", "batches"):
        value = getattr(given, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} must be at least 1, got {value}")
    if not given.out.absolute().parent.is_dir():
        raise ValueError(f"--out {given.out} must lie in a folder that exists")


def build(given: argparse.Namespace) -> ClassMeans:
    """The class means that the options ask for."""
    torch.manual_seed(given.seed)
    teacher = _named(given.teacher)()
    digest = _load(teacher, given.weights) if given.weights else "of the callable"
    teacher = teacher.to(given.device).eval().requires_grad_(False)
    data = _data(given)
    loader = DataLoader(
        data, given.batch_size, num_workers=given.workers, shuffle=given.rois,
        collate_fn=_side_by_side if given.rois else None,
    )  # fmt: skip
    provenance = {
        "teacher": given.teacher, "weights": digest, "data": Path(given.data).name,
        "layer": given.layer or "",
        "transform": given.transform if Path(given.data).is_dir() else "of the data set",
    }  # fmt: skip
    pairs = _of_rois(teacher, loader, given.device) if given.rois else _of_images(teacher, loader, given)
    return _gather(pairs, given, _classes(given, data, teacher), provenance)


def _gather(
    pairs: Iterator[tuple[Tensor, Tensor]], given, classes: int, provenance: dict[str, str]
) -> ClassMeans:
    means = None
    for number, (features, target) in enumerate(_progress(pairs, given.batches)):
        if means is None:
            means = ClassMeans(classes, features.size(1), given.missing, provenance=provenance).to(
                features.device
            )
        means.update(features, target)
        if number + 1 == given.batches:
            break
    if means is None:
        raise ValueError(f"--data {given.data} gave no batch")
    return means


def _progress(pairs: Iterator, total: int | None) -> Iterator:
    try:
        from rich.progress import track
    except ModuleNotFoundError:
        return pairs
    return track(pairs, "class means", total=total)


# ---- Teachers --------------------------------------------------------------------------------------------


def _named(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"{name!r} must be package.module:callable")
    sys.path.insert(0, "")  # a module beside the user's work is found, as by `python -m`
    return getattr(importlib.import_module(module), attribute)


def _load(teacher: nn.Module, weights: Path) -> str:
    digest = "sha256 " + hashlib.sha256(weights.read_bytes()).hexdigest()
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything
        raise ValueError(
            f"--weights {weights} must be a state_dict in safetensors or of torch.save, "
            f"reading it failed with {type(error).__name__}"
        ) from error
    teacher.load_state_dict(state)
    return digest


def _last_linear(teacher: nn.Module) -> nn.Module:
    found = [module for module in teacher.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ValueError(
            "the teacher has no Linear module: name the module whose input is the embedding with --layer"
        )
    return found[-1]


def _of_images(teacher: nn.Module, loader: DataLoader, given) -> Iterator[tuple[Tensor, Tensor]]:
    layer = teacher.get_submodule(given.layer) if given.layer else _last_linear(teacher)
    caught: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].flatten(1)))
    try:
        for images, target in loader:
            caught.clear()
            with torch.inference_mode():
                teacher(images.to(given.device))
            if len(caught) != 1:
                raise ValueError(
                    f"the layer must run once an image, it ran {len(caught)} times: choose another --layer"
                )
            yield caught[0], target.to(given.device)
    finally:
        hook.remove()


def _of_rois(teacher: nn.Module, loader: DataLoader, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    heads = getattr(teacher, "roi_heads", None)
    if heads is None:
        raise ValueError(
            "--rois needs a torchvision detector with roi_heads, such as fasterrcnn_resnet50_fpn"
        )
    for images, targets in loader:
        images = [x.to(device) for x in images]
        targets = [{k: v.to(device) for k, v in t.items() if k in ("boxes", "labels")} for t in targets]
        with torch.inference_mode():
            batch, targets = teacher.transform(images, targets)
            features = teacher.backbone(batch.tensors)
            features = {"0": features} if isinstance(features, Tensor) else features
            proposals, _ = teacher.rpn(batch, features)
            proposals, _, labels, _ = heads.select_training_samples(proposals, targets)
            yield (
                heads.box_head(heads.box_roi_pool(features, proposals, batch.image_sizes)),
                torch.cat(labels),
            )


# ---- Data ------------------------------------------------------------------------------------------------


def _side_by_side(samples: list) -> tuple:
    return tuple(zip(*samples, strict=True))


def _data(given) -> Dataset:
    if not Path(given.data).is_dir():
        return _named(given.data)()
    if given.rois:
        raise ValueError(
            "--rois needs --data package.module:callable, a Dataset of (image, boxes and labels)"
        )
    from torchvision import datasets, transforms

    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if given.transform == "train":
        steps = [transforms.RandomResizedCrop(given.size), transforms.RandomHorizontalFlip()]
    else:
        steps = [transforms.Resize(given.size * 8 // 7), transforms.CenterCrop(given.size)]
    return datasets.ImageFolder(given.data, transforms.Compose([*steps, transforms.ToTensor(), normalize]))


def _classes(given, data: Dataset, teacher: nn.Module) -> int:
    if given.num_classes:
        return given.num_classes
    if given.rois:
        return teacher.roi_heads.box_predictor.cls_score.out_features
    if hasattr(data, "classes"):
        return len(data.classes)
    raise ValueError("--num-classes is needed: the data set does not say how many classes it has")


if __name__ == "__main__":
    raise SystemExit(main())
