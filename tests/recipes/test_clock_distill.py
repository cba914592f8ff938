"""CLoCKDistill: the two losses against their equations and the published vectors, and their traps."""

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, softmax
from torchvision.ops import generalized_box_iou

from kdfast.recipes.clock_distill import (
    ConsistentLogitDistillation,
    DetrOutput,
    DetrWithQueries,
    MemoryDistillation,
    TargetQueries,
    confidences,
    fgd_weights,
)


def sines(shape, phase, size):
    """The published vectors' inputs: size * sin(i + phase), i = 1, 2, ... in row-major order."""
    count = torch.tensor(shape).prod().item()
    return (size * torch.sin(torch.arange(1, count + 1, dtype=torch.float64) + phase)).view(shape)


def output(memory=None, shapes=None, mask=None, logits=None, boxes=None, real=None) -> DetrOutput:
    """A DetrOutput with what a loss reads."""
    images = len(memory) if memory is not None else logits.size(1)
    if real is None and logits is not None:
        real = torch.ones(logits.shape[1:3], dtype=torch.bool)
    extents = torch.ones(images, 4)
    return DetrOutput(None, None, None, {}, memory, mask, shapes, extents, logits, boxes, real)


def corners(boxes):
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def test_memory_term_has_the_published_value():
    teacher, student = sines((1, 3, 4, 5), 0, 2), sines((1, 3, 4, 5), 0.5, 2).requires_grad_()
    cells = torch.tensor([[0, 1, 0, 2], [1, 3, 2, 3], [1, 1, 1, 1]]).double()  # rows and columns, inclusive
    low, high = cells[:, [2, 0]], cells[:, [3, 1]] + 1
    boxes = torch.cat([(low + high) / 2, high - low], 1) / torch.tensor([5, 4, 5, 4])
    tokens = [x.flatten(2).transpose(1, 2) for x in (student, teacher)]
    loss = MemoryDistillation()(*(output(x, [(4, 5)]) for x in tokens), [{"boxes": boxes}])
    loss.backward()
    assert loss.item() == pytest.approx(2.00368669671e-4, rel=1e-9)
    assert student.grad.abs().sum().item() == pytest.approx(5.21966600095e-4, rel=1e-9)
    expected = torch.tensor([5.20080005987e-6, -1.03608427574e-5, -1.63967745250e-5]).double()
    torch.testing.assert_close(student.grad.flatten()[:3], expected, rtol=1e-6, atol=0)  # float32 map


@pytest.mark.parametrize(
    "part, value, size",
    [
        ("classification", 0.153768232792, 0.372581697177),
        ("l1", 0.710006672107, 4.09766167853),
        ("giou", 2.18237074298, 12.9006630269),
    ],
)
def test_logit_term_has_the_published_values(part, value, size):
    logits = sines((3, 4), 0.6, 2)[None, None].requires_grad_()
    boxes = [[0.52, 0.48, 0.25, 0.28], [0.2, 0.6, 0.1, 0.2], [0.1, 0.8, 0.1, 0.1]]
    boxes = torch.tensor([[boxes]], dtype=torch.float64).requires_grad_()
    fixed = [[0.5, 0.5, 0.2, 0.3], [0.3, 0.6, 0.1, 0.1], [0.7, 0.2, 0.4, 0.2]]
    fixed = torch.tensor([[fixed]], dtype=torch.float64)
    teacher = output(logits=sines((3, 4), 0, 2)[None, None], boxes=fixed)
    weights = {"classification": 0.0, "l1": 0.0, "giou": 0.0} | {
        part: {"l1": 5.0, "giou": 2.0}.get(part, 1.0)
    }
    loss = ConsistentLogitDistillation(**weights)(output(logits=logits, boxes=boxes), teacher)
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-6)  # confidences are float32
    found = logits.grad if part == "classification" else boxes.grad
    assert found.abs().sum().item() == pytest.approx(size, rel=1e-6)


def test_logit_term_is_its_equation_layer_by_layer():
    torch.manual_seed(0)
    layers, images, queries, classes = 3, 2, 5, 4
    s, t = torch.randn(2, layers, images, queries, classes, dtype=torch.float64) * 3
    bs, bt = torch.rand(2, layers, images, queries, 4, dtype=torch.float64) * 0.4 + 0.3
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    found = ConsistentLogitDistillation()(output(logits=s, boxes=bs, real=real), output(logits=t, boxes=bt))
    expected = 0.0
    for e in range(layers):
        total = kl = l1 = giou = 0.0
        for b in range(images):
            for q in range(int(real[b].sum())):
                w = t[e, b, q].max().sigmoid().item()
                p, log_q = softmax(t[e, b, q] / 10, -1), log_softmax(s[e, b, q] / 10, -1)
                kl += w * 100 * kl_div(log_q, p, reduction="sum").item() / classes
                l1 += w * (bs[e, b, q] - bt[e, b, q]).abs().mean().item()
                pair = [corners(x[e, b, q])[None] for x in (bs, bt)]
                giou += w * (1 - generalized_box_iou(*pair).item())
                total += w
        expected += kl + 5 * l1 / total + 2 * giou / total
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_bce_form_is_a_weighted_mean():
    torch.manual_seed(0)
    s, t = torch.randn(2, 1, 1, 3, 4, dtype=torch.float64)
    boxes = torch.full((1, 1, 3, 4), 0.5, dtype=torch.float64)
    loss = ConsistentLogitDistillation(form="bce", temperature=2.0)
    w = t.amax(-1).sigmoid()
    p, q = (t / 2).sigmoid(), (s / 2).sigmoid()
    each = -(p * q.log() + (1 - p) * (1 - q).log()).mean(-1) * 4
    expected = (w * each).sum() / w.sum()
    found = loss(output(logits=s, boxes=boxes), output(logits=t, boxes=boxes))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_fgd_rasterisation_is_inclusive_and_counts_past_the_border():
    """The published example: width 1333 and 42 cells: a box of 32 pixels takes 3 cells, at the end too."""
    width = torch.tensor(1333.0)
    for low, high, first, last in ((0, 32, 0, 2), (1300, 1333, 40, 41)):
        box = torch.tensor([[(low + high) / 2 / width, 0.5, (high - low) / width, 1.0]])
        weight = fgd_weights([box], [(1, 42)], alpha=1.0, beta=0.0)[0]
        assert weight.nonzero().flatten().tolist() == list(range(first, last + 1))
        assert weight[first].item() == pytest.approx(1 / (3 * 2))  # 3 columns and 2 rows, of which one exists


def test_padded_input_moves_boxes_and_padding_does_not_count():
    """An image that fills the left half of the batch's width has its boxes in the left half of the memory."""
    student, teacher = torch.zeros(1, 8, 2), torch.ones(1, 8, 2)
    mask = torch.tensor([[True, True, False, False] * 2])
    half = output(student, [(2, 4)], mask)._replace(extents=torch.tensor([[0.5, 1.0, 0.5, 1.0]]))
    box = torch.tensor([[0.25, 0.5, 0.5, 1.0]])  # the image's left half: the first of four columns
    loss = MemoryDistillation(alpha=1.0, beta=100.0)(half, output(teacher, [(2, 4)], mask), [{"boxes": box}])
    assert loss.item() == pytest.approx(2 * (2 / 2) + 2 * (2 * 100 / 2))


def test_padded_queries_have_no_weight():
    boxes, labels = [torch.full((2, 4), 0.5), torch.zeros(0, 4)], [torch.zeros(n).long() for n in (2, 0)]
    queries = TargetQueries(3, 8, copies=2)(boxes, labels)
    assert queries.real.tolist() == [[True] * 4, [False] * 4]
    weight = confidences(torch.randn(3, 2, 4, 5), queries.real)
    assert (weight[:, 1] == 0).all() and (weight[:, 0] > 0).all()
    assert queries.allowed.diagonal(dim1=1, dim2=2).all()  # no row of the softmax is empty


def test_hopeless_teacher_and_degenerate_boxes_are_finite():
    logits = torch.full((2, 1, 3, 4), -200.0)
    boxes = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0]]).expand(
        2, 1, 3, 4
    )
    s, b = torch.randn(2, 1, 3, 4).requires_grad_(), boxes.clone().requires_grad_()
    for level in (-200.0, 5.0):
        teacher = output(logits=torch.full_like(logits, level), boxes=boxes)
        loss = ConsistentLogitDistillation()(output(logits=s, boxes=b), teacher)
        loss.backward()
        assert loss.isfinite() and s.grad.isfinite().all() and b.grad.isfinite().all()


def test_levels_and_layers_that_differ_are_named():
    s, t = torch.randn(1, 8, 2), torch.randn(1, 8, 2)
    with pytest.raises(ValueError, match="feature levels of the same sizes"):
        MemoryDistillation()(output(s, [(2, 4)]), output(t, [(4, 2)]), [{"boxes": torch.zeros(0, 4)}])
    few, many = (output(logits=torch.zeros(n, 1, 2, 3), boxes=torch.rand(n, 1, 2, 4)) for n in (2, 3))
    with pytest.raises(ValueError, match="as many decoder layers"):
        ConsistentLogitDistillation()(few, many)
    with pytest.raises(TypeError, match="a DETR of the kinds"):
        DetrWithQueries(torch.nn.Linear(1, 1))
