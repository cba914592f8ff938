"""The run: the first step; then for every seed the later steps, fine-tuned and with Y-KD."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kdfast.recipes.common.dense.detection import DetectionData, collate, detection_data
from kdfast.recipes.common.dense.lightning import Detection
from kdfast.recipes.common.dense.schedules import sgd_steps
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.dynamic_ykd.data import ClassesOnly
from kdfast.recipes.dynamic_ykd.evaluate import ClassAP, class_precisions, over
from kdfast.recipes.dynamic_ykd.grow import average_heads, grown
from kdfast.recipes.dynamic_ykd.inference import MergedMaskRCNN
from kdfast.recipes.dynamic_ykd.network import ContinualMaskRCNN, Head
from kdfast.recipes.dynamic_ykd.options import Options
from kdfast.recipes.dynamic_ykd.report import Findings, write_report
from kdfast.recipes.dynamic_ykd.scenario import Step, steps
from kdfast.recipes.dynamic_ykd.step import ContinualStep


@dataclass
class State:
    """What is carried from step to step: the network, the modules of all tasks, the head before the last."""

    network: ContinualMaskRCNN
    modules: list[nn.Module] = field(default_factory=list)
    previous: Head | None = None


class Run:
    """One run's options, folder and data, with the three things done over and over: train, average, test."""

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

        network = self._train(name, self.options.seed, step, build, first=True)
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

        network = self._train(name, seed, step, build)
        return State(network, [*state.modules, network.backbone.specific], previous)

    def _train(
        self, name: str, seed: int, step: Step, build: Any, *, first: bool = False
    ) -> ContinualMaskRCNN:
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
        return module.network.network

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

    def test(self, name: str, network: nn.Module, seen: tuple[int, ...], part: str = "test") -> ClassAP:
        """AP of each class on the test or validation images."""
        samples = ClassesOnly(getattr(self.data, part), seen)
        network.to(self.options.torch_device())
        masks, count = self.options.masks, len(self.data.classes)
        result = self.out.result(name, lambda: class_precisions(network, samples, count, masks=masks))
        network.cpu()
        return result


def run(options: Options, out: RunFolder) -> None:
    """Train all steps, write student.safetensors (of the first seed) and report.html."""
    this = Run(options, out)
    for sentence in this.data.findings:
        say(sentence)
    last = this.steps[-1]
    base = this.first("base", this.steps[0])
    found = Findings(base=this.test("base-test", this.alone(base), this.steps[0].seen))
    networks: dict[str, nn.Module] = {}
    if options.joint:
        joint = this.alone(this.first("joint", Step(last.seen, ())))
        found.add("joint training", this.test("joint-test", joint, last.seen))
    for seed in options.seed_list():
        _one_seed(this, seed, base, found, networks)
    facts = {"recipe": "dynamic_ykd", "scenario": options.scenario, "data": this.data.source}
    facts |= {"backbone": options.backbone, "classes": ", ".join(this.data.classes)}
    save_weights(out, "student.safetensors", networks["Y-KD"], facts)
    write_report(options, out, this.data, this.steps, found, networks)


def _one_seed(this: Run, seed: int, base: State, found: Findings, networks: dict[str, nn.Module]) -> None:
    """All later steps: fine-tuning, Y-KD, and the curve of averaged heads."""
    seen = this.steps[-1].seen
    if this.options.baseline:
        state = base
        for number, step in enumerate(this.steps[1:], 1):
            state = this.next(f"finetune-step{number}-{seed}", seed, state, step, distil=False)
        network = this.alone(state)
        networks.setdefault("fine-tuning", network)
        _tell(this, found, "fine-tuning", this.test(f"finetune-{seed}-test", network, seen))
    state = base
    for number, step in enumerate(this.steps[1:], 1):
        state = this.next(f"ykd-step{number}-{seed}", seed, state, step, distil=True)
    network = this.merged(state)
    networks.setdefault("Y-KD", network)
    _tell(this, found, "Y-KD", this.test(f"ykd-{seed}-test", network, seen))
    curve = {}
    for weight in this.options.averages:
        name = f"ykd-{seed}-average-{weight:g}-validation"
        curve[weight] = this.test(name, this.merged(state, weight=weight), seen, "validation")
    found.curves.append(curve)
    best = max(curve, key=lambda weight: over(curve[weight]["boxes"], seen))
    found.chosen.append(best)
    averaged = this.test(f"ykd-{seed}-averaged-test", this.merged(state, weight=best), seen)
    _tell(this, found, "Y-KD, averaged heads", averaged)


def _tell(this: Run, found: Findings, name: str, result: ClassAP) -> None:
    found.add(name, result)
    old, new = (over(result["boxes"], labels) for labels in _groups(this.steps))
    say(f"{name:<22} test AP: old classes {old:.3f}, new {new:.3f}")


def _groups(all_steps: list[Step]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Labels of the first step's classes and of all later ones."""
    old = all_steps[0].new
    return old, tuple(label for label in all_steps[-1].seen if label not in old)


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
