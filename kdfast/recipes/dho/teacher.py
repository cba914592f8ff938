"""A run's teacher: a vision-language model on the student's images, and its logits for each seed's labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import kdfast
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.image_set import ImageSet
from kdfast.recipes.common.seeds import seed_all
from kdfast.recipes.dho import vision_language
from kdfast.recipes.dho.options import Options
from kdfast.recipes.dho.tip_adapter import TipAdapter, fit_tip_adapter
from kdfast.recipes.dho.zero_shot import ZeroShot, class_embeddings


class Prepare(nn.Module):
    """The student's images [N, C, S, S], normalised by `given` -> RGB [N, 3, size, size], by `wanted`."""

    def __init__(
        self,
        given: tuple[Sequence[float], Sequence[float]],
        wanted: tuple[Sequence[float], Sequence[float]],
        size: int,
    ) -> None:
        super().__init__()
        self.size = size
        for name, values in zip(("mean", "std", "new_mean", "new_std"), (*given, *wanted), strict=True):
            self.register_buffer(
                name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False
            )

    def forward(self, images: Tensor) -> Tensor:
        pixels = images * self.std + self.mean
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        if pixels.shape[-1] != self.size:
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True)
        return (pixels.clamp(0, 1) - self.new_mean) / self.new_std


class Teacher:
    """The model, and for every seed the logits it gives with that seed's labels.

    Embeddings of plain images are computed once and kept in a TeacherCache (`--teacher-cache`, or
    OUT/teacher_cache), so that a resumed run reads what the first one computed.
    """

    def __init__(self, options: Options, images: ImageSet, out: RunFolder) -> None:
        self.options, self.images, self.out = options, images, out
        model = vision_language.load("--teacher", options.teacher, size=options.teacher_size)
        if options.class_vectors == "text" and model.encode_text is None:
            raise UserError(
                f"--class-vectors text: --teacher {options.teacher} has no text; images is needed"
            )
        self.model = model
        prepare = Prepare((images.mean, images.std), (model.mean, model.std), model.size)
        self.encoder = nn.Sequential(prepare, model.encoder).eval().requires_grad_(False)
        if options.teacher_dtype() is not None:
            self.encoder[1].to(options.teacher_dtype())
            self.encoder = _Cast(self.encoder, options.teacher_dtype())
        folder = Path(options.teacher_cache or out.path / "teacher_cache")
        self._cache = kdfast.TeacherCache(folder, teacher=self.encoder)
        how = options.class_vectors
        self.from_text = how == "text" or (how == "auto" and model.encode_text is not None)

    @property
    def name(self) -> str:
        """For the report: what it is and what it was told."""
        vectors = "class names" if self.from_text else "means of the labelled images"
        cache = ", and a trained cache of them (Tip-Adapter-F)" if self.options.tip_adapter else ""
        return f"{self.model.name}, class vectors from {vectors}{cache}"

    @torch.no_grad()
    def embeddings(self, part: str, rows: Sequence[int] | None = None) -> Tensor:
        """Of the plain images of "train", "validation" or "test" [N, d], float32, on the CPU."""
        samples = getattr(self.images, "plain_train" if part == "train" else part)
        rows = range(len(samples)) if rows is None else rows
        view = f"{self.images.source}; {self.images.size}; {self.options.validation_share}; {self.model.size}"
        loader = DataLoader(
            Subset(samples, list(rows)), self.options.batch_size, num_workers=self.options.workers
        )
        found, first = [], 0
        with self._cache:
            for images, _ in loader:
                keys = [(part, int(row)) for row in rows[first : first + len(images)]]
                compute = lambda todo, images=images: self.encode(images[todo])  # noqa: E731
                found.append(self._cache.get_or_put(keys, compute, augmentation=view))
                first += len(images)
        return torch.cat(found)

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings of one batch of the student's images, on the CPU."""
        device = self.options.torch_device()
        self.encoder.to(device)  # a stage that ends takes its teacher back to the CPU
        return self.encoder(images.to(device)).float().cpu()

    def for_labels(self, rows: list[int], seed: int) -> ZeroShot | TipAdapter:
        """The teacher that knows the labels of the training rows `rows`."""
        labels = self.images.labels[rows]
        vectors = self._class_vectors(rows, labels)
        if not self.options.tip_adapter:
            return ZeroShot(self.encoder, vectors).requires_grad_(False)
        kept = self.out.result(f"tip-adapter-{seed}", lambda: self._fit(rows, labels, vectors, seed))
        A, V, alpha, beta = (
            torch.tensor(kept["A"]),
            F.one_hot(labels, len(vectors)),
            kept["alpha"],
            kept["beta"],
        )
        return TipAdapter(self.encoder, A, V, vectors, alpha, beta).requires_grad_(False)

    def _class_vectors(self, rows: list[int], labels: Tensor) -> Tensor:
        classes = len(self.images.classes)
        if self.from_text:
            options = self.options
            return class_embeddings(
                self.model.encode_text, self.images.classes, options.templates, how=options.prompt_mean
            )
        unit = F.normalize(self.embeddings("train", rows), dim=-1)
        sums, counts = kdfast.functional.class_sums(unit, labels, classes)
        if not counts.all():
            missing = ", ".join(self.images.classes[i] for i in torch.nonzero(counts == 0).flatten()[:5])
            raise UserError(f"--class-vectors images: there is no labelled image of {missing}")
        return F.normalize(sums / counts.unsqueeze(1), dim=-1)

    def _fit(self, rows: list[int], labels: Tensor, vectors: Tensor, seed: int) -> dict:
        seed_all(seed, "tip-adapter")
        images, options = self.images, self.options
        validation = (
            self.embeddings("validation"),
            torch.tensor([int(y) for _, y in _labels(images.validation)]),
        )
        views = torch.stack([self._view(rows) for _ in range(options.tip_views)])
        A, _, alpha, beta, accuracy = fit_tip_adapter(
            views, labels, vectors, validation, epochs=options.tip_epochs, search_scale=options.tip_search
        )
        return {"A": A.tolist(), "alpha": alpha, "beta": beta, "validation_accuracy": accuracy}

    @torch.no_grad()
    def _view(self, rows: list[int]) -> Tensor:
        """Embeddings of one augmented view of the training rows."""
        loader = DataLoader(Subset(self.images.train, rows), self.options.batch_size)
        moves = self.images.augment or nn.Identity()
        return torch.cat([self.encode(moves(images)) for images, _ in loader])


class _Cast(nn.Module):
    """Run a module on a lower precision's inputs."""

    def __init__(self, module: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__()
        self.prepare, self.rest, self.dtype = module[0], module[1], dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.prepare(images).to(self.dtype))


def _labels(samples: Dataset):
    return (samples[row] for row in range(len(samples)))
