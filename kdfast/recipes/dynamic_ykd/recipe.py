"""The run: the first step; then for every seed the later steps, fine-tuned and with Y-KD."""

from __future__ import annotations

from torch import nn

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.dynamic_ykd.evaluate import ClassAP, over
from kdfast.recipes.dynamic_ykd.options import Options
from kdfast.recipes.dynamic_ykd.report import Findings, write_report
from kdfast.recipes.dynamic_ykd.scenario import Step
from kdfast.recipes.dynamic_ykd.step import ContinualStep
from kdfast.recipes.dynamic_ykd.training import Run, State


def run(options: Options, out: RunFolder) -> None:
    """Train all steps, write student.safetensors (of the first seed) and report.html."""
    this = Run(options, out)
    for sentence in this.data.findings:
        say(sentence)
    last = this.steps[-1]
    base = this.first("base", this.steps[0])
    found = Findings(base=this.test("base-test", this.alone(base), this.steps[0].seen))
    networks: dict[str, nn.Module] = {"first step": this.alone(base)}
    if options.joint:
        joint = this.alone(this.first("joint", Step(last.seen, ())))
        found.add("joint training", this.test("joint-test", joint, last.seen))
    for seed in options.seed_list():
        distilled = _one_seed(this, seed, base, found, networks)
    facts = {"recipe": "dynamic_ykd", "scenario": options.scenario, "data": this.data.source}
    facts |= {"backbone": options.backbone, "classes": ", ".join(this.data.classes)}
    save_weights(out, "student.safetensors", networks["Y-KD"], facts)
    write_report(options, out, this.data, this.steps, found, networks, this.share(distilled))


def _one_seed(
    this: Run, seed: int, base: State, found: Findings, networks: dict[str, nn.Module]
) -> ContinualStep:
    """All later steps: fine-tuning, Y-KD, and averaged heads. Returns the last distilled step."""
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
    if this.options.averages:
        _average(this, seed, state, found)
    return state.step


def _average(this: Run, seed: int, state: State, found: Findings) -> None:
    """The curve over the weights of the old head on validation images; the best of them on test images."""
    curve, seen = {}, this.steps[-1].seen
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
