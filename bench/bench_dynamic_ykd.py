"""The distillation of a Dynamic Y-KD step at the paper's sizes, forward and backward: 2 images of 800 x 1333.

All losses on 128 regions, 20 old classes with background and one new, masks of 14 x 14, 15 anchors on 50 x
84. What the recipe saves besides, by aligning the regions once for both heads, is not in it.
"""

import harness
import torch
from harness import Case, Provider

from kdfast.ops.class_box_l2 import class_box_l2_reference
from kdfast.ops.rpn_distill import rpn_distill_reference
from kdfast.ops.soft_bce import soft_bce_reference
from kdfast.ops.unbiased_kl_div import unbiased_kl_div_reference
from kdfast.recipes.dynamic_ykd import plain
from kdfast.recipes.dynamic_ykd.losses import distillation
from kdfast.recipes.dynamic_ykd.network import Proposals, RoIOutputs

IMAGES, REGIONS, OLD, NEW, ANCHORS, GRID = 2, 128, 20, 1, 15, (50, 84)


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(harness.device())


def outputs(classes: int, seed: int) -> tuple[RoIOutputs, Proposals]:
    regions = RoIOutputs(
        noise(REGIONS, classes, seed=seed),
        noise(REGIONS, classes, 4, seed=seed + 1),
        noise(REGIONS, classes, 14, 14, seed=seed + 2),
    )
    scores, deltas = (noise(IMAGES, n * ANCHORS, *GRID, seed=seed + 3 + n) for n in (1, 4))
    return regions, Proposals(scores, deltas, [], [])


def ours(*parts):
    return sum(distillation(*parts).values())


def best(student, teacher, mine, theirs):
    """The library's definitions: one expression each."""
    objectness, boxes = rpn_distill_reference(mine.objectness, theirs.objectness, mine.deltas, theirs.deltas)
    return (
        unbiased_kl_div_reference(student.classes, teacher.classes, num_new=NEW)
        + class_box_l2_reference(student.boxes, teacher.boxes)
        + soft_bce_reference(student.masks, teacher.masks)
        + objectness
        + boxes
    )


FORMS = {"kdfast": ours, "authors' style": plain.distillation, "plain": best}


def test_distillation(benchmark):
    (student, mine), (teacher, theirs) = outputs(OLD + NEW, 0), outputs(OLD, 10)
    leaves = [*student, mine.objectness, mine.deltas]
    for leaf in leaves:
        leaf.requires_grad_()

    def step(loss):
        def run() -> None:
            loss(student, teacher, mine, theirs).backward()
            for leaf in leaves:
                leaf.grad = None

        return run

    def gradient(loss, dtype=torch.float32):
        def run() -> torch.Tensor:
            cut = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
            own = Proposals(cut[3], cut[4], [], [])
            other = Proposals(theirs.objectness.to(dtype), theirs.deltas.to(dtype), [], [])
            value = loss(RoIOutputs(*cut[:3]), RoIOutputs(*(x.to(dtype) for x in teacher)), own, other)
            return torch.cat([g.flatten() for g in torch.autograd.grad(value, cut)])

        return run

    torch._dynamo.reset()
    forms = FORMS | {"torch.compile": torch.compile(best)}
    providers = [Provider(name, step(form), gradient(form)) for name, form in forms.items()]
    size = 2 * sum(leaf.nbytes for leaf in leaves) + sum(x.nbytes for x in (*teacher, *theirs[:2]))
    harness.compare(
        Case("dynamic_ykd", f"R{REGIONS} K{OLD}+{NEW}", providers, size, gradient(best, torch.float64)()),
        benchmark,
    )
