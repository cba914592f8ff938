"""The teacher's mean embedding of every class, gathered in one pass over its training set: what nd_loss
steers by.

    means = ClassMeans(1000, 2048, provenance={"teacher": "resnet50", "transform": "train"})
    for images, target in loader:
        means.update(embed(images), target)
    means.save("resnet50.safetensors")

`kdfast class-means --help` is the same as a command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

import kdfast.functional as KF
from kdfast.ops import _check_features

MISSING = ("error", "ignore")
_FORMAT = "kdfast class means 1"


class _OfClassOrInstance:
    """A method that fills the instance it is called on, or a new one if it is called on the class."""

    def __init__(self, method: Callable) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: object | None, owner: type) -> Callable:
        return lambda *args, **keywords: self.method(owner, instance, *args, **keywords)


class ClassMeans(nn.Module):
    """Sums and counts by class, float64 inside, float32 out.

    Args:
        num_classes: K.
        dim: D, the embedding's width.
        missing: classes never seen make `compute` raise ValueError ("error") or get a row of NaN ("ignore"),
            which nd_loss does not count.
        provenance: what the file shall say about where the means come from: teacher, transform, ...
    """

    sums: Tensor  # [K, D] float64
    counts: Tensor  # [K] int64

    def __init__(
        self,
        num_classes: int,
        dim: int,
        missing: str = "error",
        *,
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        for name, n in (("num_classes", num_classes), ("dim", dim)):
            if not isinstance(n, int) or isinstance(n, bool) or n < 1:
                raise ValueError(f"{name} must be an int of 1 or more, got {n!r}")
        _check_features.option("missing", missing, MISSING)
        super().__init__()
        self.num_classes, self.dim, self.missing = num_classes, dim, missing
        self.provenance = {str(k): str(v) for k, v in (provenance or {}).items()}
        self.register_buffer("sums", torch.zeros(num_classes, dim, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    def _apply(self, fn: Callable, recurse: bool = True) -> ClassMeans:
        # .half() and .float() are for weights: sums stay float64.
        sums = self.sums
        super()._apply(fn, recurse)
        if self.sums.dtype != torch.float64:
            self.sums = sums.to(self.sums.device)
        return self

    @torch.no_grad()
    def update(self, features: Tensor, target: Tensor) -> None:
        """Adds embeddings [N, D] with classes [N]."""
        if isinstance(features, Tensor) and (features.dim() != 2 or features.size(1) != self.dim):
            raise ValueError(f"features must be [rows, {self.dim}], got shape {tuple(features.shape)}")
        sums, counts = KF.class_sums(features, target, self.num_classes, dtype=torch.float64)
        self.sums += sums
        self.counts += counts

    forward = update

    def _totals(self) -> tuple[Tensor, Tensor]:
        """Sums and counts over all ranks of torch.distributed; every rank must call."""
        sums, counts = self.sums.clone(), self.counts.clone()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        return sums, counts

    def compute(self) -> Tensor:
        """The means [K, D], float32, over all ranks. Raises ValueError naming classes never seen unless they
        are ignored.
        """
        sums, counts = self._totals()
        if self.missing == "error":
            _refuse_missing(counts)
        return (sums / torch.where(counts == 0, torch.nan, counts.double()).unsqueeze(1)).float()

    def save(self, path: str | Path) -> None:
        """Writes sums, counts and provenance as safetensors. Every rank must call; rank 0 writes."""
        from safetensors.torch import save_file

        sums, counts = self._totals()
        if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
            return
        about = {"format": _FORMAT, "missing": self.missing, "provenance": json.dumps(self.provenance)}
        save_file({"sums": sums.cpu().contiguous(), "counts": counts.cpu()}, path, metadata=about)

    @_OfClassOrInstance
    def load(cls: type[ClassMeans], self: ClassMeans | None, path: str | Path) -> ClassMeans:  # noqa: N805
        """Reads a saved file: ClassMeans.load(path) makes the object, means.load(path) fills it (same K and
        D). compute() adds the ranks up: to go on with a file over several ranks, load it on one of them.
        """
        sums, counts, about = _read(Path(path))
        if self is None:
            self = cls(*sums.shape, about["missing"])
        elif tuple(sums.shape) != (self.num_classes, self.dim):
            raise ValueError(
                f"{path} holds {sums.size(0)} classes of {sums.size(1)} features, but these means are "
                f"[{self.num_classes}, {self.dim}]"
            )
        self.sums.copy_(sums)
        self.counts.copy_(counts)
        self.provenance = json.loads(about["provenance"])
        return self

    @classmethod
    def from_json(cls, path: str | Path, *, missing: str = "error") -> ClassMeans:
        """Reads the JSON file of the official code, {"label": [D floats]}; it has no counts, so each class
        counts once. Raises ValueError for any other content.
        """
        found = json.loads(Path(path).read_text())
        if not _is_table(found):
            raise ValueError(f'{path} must hold {{"class number": [numbers]}}, rows of one length')
        table = {int(label): row for label, row in found.items()}
        means = cls(
            max(table) + 1, len(next(iter(table.values()))), missing, provenance={"source": Path(path).name}
        )
        labels = torch.tensor(sorted(table))
        means.update(torch.tensor([table[int(k)] for k in labels], dtype=torch.float64), labels)
        return means

    def extra_repr(self) -> str:
        sizes = f"num_classes={self.num_classes}, dim={self.dim}"
        return f"{sizes}, missing={self.missing!r}, provenance={self.provenance}"


def _refuse_missing(counts: Tensor) -> None:
    missing = (counts == 0).nonzero().flatten().tolist()
    if missing:
        some = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
        raise ValueError(
            f'no sample was seen of {len(missing)} classes: {some}; missing="ignore" gives them NaN'
        )


def _is_table(found: object) -> bool:
    return (
        isinstance(found, dict)
        and all(label.isdecimal() and isinstance(row, list) for label, row in found.items())
        and len({len(row) for row in found.values()}) == 1
    )


def _read(path: Path) -> tuple[Tensor, Tensor, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    refusal = f"{path} is not a file of class means: ClassMeans.save writes them"
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise ValueError(refusal)
            return file.get_tensor("sums"), file.get_tensor("counts"), about
    except SafetensorError as error:
        raise ValueError(refusal) from error
