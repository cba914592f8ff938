"""The options of `kdfast distill dho`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdfast.recipes.common import builtin_images
from kdfast.recipes.common.data import DataUnavailable
from kdfast.recipes.common.image_options import ImageOptions
from kdfast.recipes.common.options import require_positive
from kdfast.recipes.common.ranks import say


@dataclass(kw_only=True)
class Options(ImageOptions):
    """Loss and heads default to the paper's few-shot settings; data and networks to the demonstration's."""

    data: str = "auto"
    """mnist, digits, animals, stamps or elpv (built in), or a folder: CIFAR's python files, CLASS/*.jpg, or
    train/ and val/ (ImageNet), whose names are what the teacher is told; auto: the stamps, for students of
    32 x 32, or the animals with --teacher mobilenet where Debian's packages are not to be had"""

    label_share: float = 0.1
    """share of the training labels that is known, drawn class by class by the student's seed; the other
    images are unlabelled"""

    shots: int = 0
    """labelled images of each class, in place of --label-share"""

    teacher: str = "conse"
    """conse, mobilenet, open_clip:MODEL@FILE or transformers:FOLDER; see dho/vision_language.py"""

    class_vectors: Literal["auto", "text", "images"] = "auto"
    """of the teacher: from the class names, or means of the labelled images; auto: text if it has any"""

    templates: tuple[str, ...] = ("a photo of a {}.",)
    """prompts, {} stands for the class"""

    prompt_mean: Literal["renormalize", "mean_of_unit"] = "renormalize"
    """the mean of a class's prompts to unit length, or left as it is (the paper's DFN5B teachers)"""

    tip_adapter: bool = False
    """put a cache of the labelled images on top of the teacher, trained: Tip-Adapter-F"""

    tip_epochs: int = 20
    """passes over the labelled images, of the cache's training"""

    tip_views: int = 10
    """augmented views of each labelled image, averaged to its key"""

    tip_search: tuple[float, float] = (12.0, 5.0)
    """greatest beta and alpha of the cache's search on validation images; 7 and 3 for ImageNet"""

    teacher_size: int = 0
    """side of the teacher's images, 0 for its own; they are resized from the student's"""

    teacher_view: Literal["auto", "same", "plain"] = "auto"
    """the teacher sees the student's augmented image, as in the paper, or the plain one, whose outputs are
    computed once and kept; auto: plain for built-in data"""

    student: str = "cifar_resnet8"
    """timm's or torchvision's name, cifar_..., NAME@WEIGHTS, mobilenet_v2@imagenet; or open_clip:MODEL@FILE,
    transformers:FOLDER for their image tower"""

    student_size: int = 0
    """side of the student's images, 0 for --image-size; resized in front of it, while the teacher gets them
    whole"""

    align_kd: bool = False
    """the distillation head on normalised embeddings times 100, for vision-language students"""

    init_text: bool = False
    """both heads begin as the text embeddings of a vision-language student"""

    normalize_text: bool = False
    """those embeddings to unit length"""

    temperature: float = 2.0
    """T of the KL terms"""

    lam: float = 0.5
    """share of the cross-entropy in the loss"""

    unit_weights: bool = False
    """weights 1 and 1 in place of lam and 1 - lam, as in the paper's 1 % and 10 % settings"""

    reduction: Literal["code", "mean"] = "code"
    """the sum of the two KL means, or one mean over all rows"""

    pass_over: Literal["unlabeled", "shorter"] = "unlabeled"
    """what an epoch is: all unlabelled images, the labelled ones cycled; or until one of the two ends"""

    separate: bool = False
    """labelled and unlabelled images in two forward passes, with batch statistics of their own"""

    alpha: float | None = None
    """share of the supervised head in predictions; -1 searches it on the validation images. Not given: as in
    the paper, 0.5 with --label-share and a search with --shots"""

    beta: float | None = None
    """temperature of the distillation head in predictions; the same"""

    single_head: bool = True
    """also train a student with one head for both losses, to compare"""

    epochs: int = 60
    """passes, see --pass-over"""

    batch_size: int = 32
    """labelled and unlabelled images a step, each, for each device"""

    threads: int = 1
    """CPU threads of each process"""

    seeds: int = 3
    """how many students to train, with seeds SEED, SEED + 1, ...; the report gives mean and spread"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(temperature=self.temperature, tip_epochs=self.tip_epochs, tip_views=self.tip_views)
        if not 0 <= self.lam <= 1:
            raise ValueError(f"option --lam: a number in [0, 1] is needed, got {self.lam}")
        if min(self.shots, self.teacher_size, self.student_size) < 0:
            raise ValueError("options --shots, --teacher-size, --student-size: 0 or more is needed")
        if self.alpha is None and self.beta is None:
            self.alpha = self.beta = -1.0 if self.shots else 0.5
        if None in (self.alpha, self.beta) or (self.alpha == -1) != (self.beta == -1):
            raise ValueError("options --alpha and --beta: give both, or -1 for both to search them")
        if self.alpha != -1 and not (0 <= self.alpha <= 1 and self.beta > 0):
            raise ValueError(
                f"options --alpha and --beta: alpha in [0, 1] and beta above 0 are needed, got {self.alpha} "
                f"and {self.beta}"
            )
        if any("{}" not in template for template in self.templates):
            raise ValueError("option --templates: every prompt needs {} where the class name goes")

    def prepare(self) -> None:
        """Settle `data` and `teacher_view`."""
        if self.data == "auto":
            self.data, self.student_size = "stamps", self.student_size or 32
            try:
                builtin_images.load("stamps")
            except DataUnavailable as error:
                self.data, self.student_size, self.teacher = "animals", 0, "mobilenet"
                self.epochs = min(self.epochs, 6)  # of 31 times as many images
                say(
                    f"the stamps are not to be had ({error}); using the animals, --teacher mobilenet and "
                    f"--epochs {self.epochs}"
                )
        if self.teacher_view == "auto":
            self.teacher_view = "plain" if self.data in builtin_images.NAMES else "same"

    @property
    def replays(self) -> bool:
        """Whether the teacher's outputs are computed once, in front of training."""
        return self.teacher_view == "plain" or self.augment == "none"

    @property
    def weights(self) -> tuple[float, float]:
        """Of the cross-entropy and of the KL terms."""
        return (1.0, 1.0) if self.unit_weights else (self.lam, 1 - self.lam)
