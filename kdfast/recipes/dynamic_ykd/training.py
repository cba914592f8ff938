"""What a run does over and over: trains a step, merges the modules of all tasks, scores.

`Run` has the options, the folder and the data; `State` is what is carried from step to step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kdfast.recipes.common.dense.detection import DetectionData, detection_data
from kdfast.recipes.common.dense.detection_set import collate
from kdfast.recipes.common.dense.lightning import Detection
from kdfast.recipes.common.dense.schedules import sgd_steps
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.dynamic_ykd.data import ClassesOnly
from kdfast.recipes.dynamic_ykd.evaluate import ClassAP, class_precisions
from kdfast.recipes.dynamic_ykd.grow import average_heads, grown
from kdfast.recipes.dynamic_ykd.inference import MergedMaskRCNN
from kdfast.recipes.dynamic_ykd.network import ContinualMaskRCNN, Head
from kdfast.recipes.dynamic_ykd.options import Options
from kdfast.recipes.dynamic_ykd.scenario import Step, steps
from kdfast.recipes.dynamic_ykd.share import loss_share
from kdfast.recipes.dynamic_ykd.step import ContinualStep


@dataclass
class State:
    """What is carried from step to step: the network, the modules of all tasks, the head before the last, and
    what the network was trained in."""

    network: ContinualMaskRCNN
    modules: list[nn.Module] = field(default_factory=list)
    previous: Head | None = None
    step: ContinualStep | None = None


class Run:
    """One run's options, folder and data.

    Raises:
        UserError: the data cannot be read, or the scenario does not fit its classes.
    """

    def __init__(self, options: Options, out: RunFolder) -> None:
        self.options, self.out, self.data = options, out, _data(options)
        try:
            self.steps = steps(options.scenario, len(self.data.classes))
        except ValueError as error:
            raise UserError(f"option --scenario: {error}") from error

    def first(self, name: str, step: Step) -> State:
        """Train a new network on the classes of `step`."""

        def build() -> ContinualStep:
            return ContinualStep(_network(self.options, 1 + len(step.new)))

        network = self._train(name, self.options.seed, step, build, first=True).network
        return State(network, [network.backbone.specific])

    def next(self, name: str, seed: int, state: State, step: Step, *, distil: bool) -> State:
        """Train the following step, with Y-KD or by fine-tuning."""
        options, previous = self.options, copy.deepcopy(state.network.head)

        def build() -> ContinualStep:
            network = copy.deepcopy(state.network).train()
            network.head = grown(previous, len(step.new), init=options.init)
            if not distil:
                return ContinualStep(network)
            return ContinualStep(
                network,
                teacher=copy.deepcopy(previous),
                num_old=len(step.old) if options.unbiased else 0,
                classes=options.classes_weight,
                masks=options.masks_weight,
                form=options.form,
                sampled=options.sampled,
            )

        trained = self._train(name, seed, step, build)
        network = trained.network
        return State(network, [*state.modules, network.backbone.specific], previous, trained)

    def _train(
        self, name: str, seed: int, step: Step, build: Callable[[], ContinualStep], *, first: bool = False
    ) -> ContinualStep:
        options, data = self.options, self.data
        train = ClassesOnly(data.train, step.new, only_with=True)
        if not len(train):
            wanted = ", ".join(data.classes[label - 1] for label in step.new)
            raise UserError(f"no training image has an object of {wanted}")
        batches = EpochData(
            train,
            ClassesOnly(data.validation, step.seen),
            batch_size=options.batch_size,
            workers=options.workers,
            collate=collate,
        )
        optimize = sgd_steps(
            options.lr if first else options.step_lr,
            weight_decay=options.weight_decay,
            drops=(20 / 36, 25 / 36) if first else (0.8,),
        )
        epochs = options.base_epochs if first else options.epochs
        draws = name if first else f"step {len(step.old)}"  # fine-tuning and Y-KD: the same images and rows
        module = train_stage(
            self.out,
            name,
            lambda: Detection(build(), optimize),
            batches,
            options,
            epochs=epochs,
            seed=seed,
            draws=draws,
            trainer_options={"gradient_clip_val": 10.0},
        )
        return module.network

    def merged(self, state: State, *, weight: float = 0.0) -> MergedMaskRCNN:
        """All tasks' modules with the last head, or its average with the head before it."""
        network = copy.copy(state.network)
        network._modules = dict(network._modules)  # the copy gets a head of its own, the rest is shared
        if weight:
            network.head = average_heads(state.previous, state.network.head, weight, rows=self.options.rows)
        tasks = [step.new for step in self.steps[: len(state.modules)]]
        return MergedMaskRCNN(network, state.modules, tasks).eval()

    def alone(self, state: State) -> MergedMaskRCNN:
        """The last module for all classes."""
        labels = range(1, state.network.head.num_classes)
        return MergedMaskRCNN(state.network, state.modules[-1:], [labels]).eval()

    def share(self, trained: ContinualStep) -> dict[str, Any]:
        """What part of a distilled step the distillation is, on a batch of the last step's images."""
        samples = ClassesOnly(self.data.train, self.steps[-1].new, only_with=True)
        batch = [samples[index] for index in range(min(self.options.batch_size, len(samples)))]
        device = self.options.torch_device()
        return self.out.result("loss-share", lambda: loss_share(trained, batch, device=device))

    def test(self, name: str, network: nn.Module, seen: tuple[int, ...], part: str = "test") -> ClassAP:
        """AP of each class on the test or validation images."""
        samples = ClassesOnly(getattr(self.data, part), seen)
        network.to(self.options.torch_device())
        masks, count = self.options.masks, len(self.data.classes)
        result = self.out.result(name, lambda: class_precisions(network, samples, count, masks=masks))
        network.cpu()
        return result


def _data(options: Options) -> DetectionData:
    return detection_data(
        options.data,
        options.data_root,
        short_side=options.short_side,
        long_side=options.long_side,
        classes=tuple(options.classes),
        masks=options.masks,
        skip_bad=options.skip_bad,
        cache=options.cache,
    )


def _network(options: Options, num_classes: int) -> ContinualMaskRCNN:
    return ContinualMaskRCNN(
        options.backbone,
        num_classes,
        short_side=options.short_side,
        long_side=options.long_side,
        weights=options.weights,
        masks=options.masks,
        anchor_sizes=options.anchor_sizes,
        pool=options.pool,
        regions=options.regions,
        top=options.proposals,
    )
