"""CLoCKDistill's queries through three DETRs: one pass, no objects, padding, bad input."""

import pytest
import torch

from kdfast.recipes.clock_distill import (
    ConsistentLogitDistillation,
    DetrWithQueries,
    MemoryDistillation,
    TargetQueries,
    build_detr,
    label_embedding_of,
    plain,
)

ARCHITECTURES = ("dab_detr", "deformable_detr", "rt_detr")
SMALL = {"backbone": "mobilenet_v2", "dim": 64, "encoder_layers": 1, "decoder_layers": 2, "queries": 12}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request):
    torch.manual_seed(0)
    student, teacher = (DetrWithQueries(build_detr(request.param, 3, **SMALL)) for _ in range(2))
    for network in (student, teacher):  # fresh heads give nearly the same logits for everything
        for parameter in network.detr.model.decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return student, teacher.eval()


def batch(*counts: int):
    torch.manual_seed(1)
    images, mask = torch.randn(len(counts), 3, 64, 96), torch.ones(len(counts), 64, 96)
    boxes = [torch.rand(n, 4) * 0.2 + 0.3 for n in counts]
    labels = [torch.arange(n) % 3 for n in counts]
    return images, mask, boxes, labels


def losses(pair, counts):
    student, teacher = pair
    images, mask, boxes, labels = batch(*counts)
    queries = TargetQueries(3, SMALL["dim"])(boxes, labels)
    target = [{"boxes": b, "class_labels": y} for b, y in zip(boxes, labels, strict=True)]
    ours = student.train()(images, mask, queries, target)
    with torch.no_grad():
        theirs = teacher(images, mask, queries)
    return ours, MemoryDistillation()(ours, theirs, target), ConsistentLogitDistillation()(ours, theirs)


def test_new_rt_detr_has_a_memory_of_unit_size():
    """transformers' own initial values give one of 1e-4."""
    torch.manual_seed(0)
    images, mask, *_ = batch(2, 1)
    labels = [{"boxes": torch.zeros(0, 4), "class_labels": torch.zeros(0, dtype=torch.int64)}] * 2
    network = DetrWithQueries(build_detr("rt_detr", 3, **SMALL)).train()
    assert 0.5 < network(images, mask, None, labels).memory.std() < 2


@pytest.mark.parametrize("counts", [(2, 1), (2, 0), (0, 0)], ids=["objects", "one empty", "all empty"])
def test_losses_and_gradients_are_finite(pair, counts):
    pair[0].zero_grad()
    out, memory, logits = losses(pair, counts)
    (out.loss + memory + logits).backward()
    grads = [p.grad for p in pair[0].parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)  # every parameter: DDP needs them
    assert out.loss.isfinite() and memory > 0
    assert (logits > 0) == (sum(counts) > 0)


def test_external_queries_leave_the_model_as_it_was(pair):
    student = pair[0].eval()
    images, mask, boxes, labels = batch(3, 1)
    with torch.no_grad():
        plain = student(images, mask)
        with_queries = student(images, mask, TargetQueries(3, SMALL["dim"])(boxes, labels))
    torch.testing.assert_close(plain.logits, with_queries.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain.boxes, with_queries.boxes, atol=1e-5, rtol=1e-5)
    assert plain.external_logits.shape == (2, 2, 0, 3) and with_queries.external_logits.shape == (2, 2, 9, 3)


def test_external_queries_see_nothing_but_their_copy(pair):
    """The results of an image's objects do not depend on the copies, on padding, or on the own queries."""
    student = pair[0].eval()
    images, mask, boxes, labels = batch(2, 1)
    make = TargetQueries(3, SMALL["dim"], copies=2)
    with torch.no_grad():
        together = student(images, mask, make(boxes, labels))
        alone = student(images[1:], mask[1:], make(boxes[1:], labels[1:]))
    first, second = together.external_logits.unflatten(2, (2, 2)).unbind(2)
    torch.testing.assert_close(first[:, together.real[:, :2]], second[:, together.real[:, :2]])
    torch.testing.assert_close(first[:, 1, 0], alone.external_logits[:, 0, 0], atol=1e-4, rtol=1e-4)


def test_external_queries_depend_on_their_box_and_class(pair):
    student = pair[0].eval()
    images, mask, boxes, labels = batch(2)
    make = TargetQueries(3, SMALL["dim"], copies=1)
    with torch.no_grad():
        base, moved, renamed = (
            student(images, mask, make([b], [y])).external_boxes
            for b, y in (
                (boxes[0], labels[0]),
                (boxes[0] + 0.2, labels[0]),
                (boxes[0], labels[0].flip(0)),
            )
        )
    assert (base - moved).abs().min() > 1e-4 and (base - renamed).abs().max() > 1e-6


def test_queries_are_constant_and_the_teachers_embedding_serves():
    detr = build_detr("rt_detr", 3, **SMALL)
    queries = TargetQueries(3, SMALL["dim"], label_embedding=label_embedding_of(detr))
    assert not [p for p in queries.parameters() if p.requires_grad]
    made = queries([torch.full((1, 4), 0.5)], [torch.tensor([2])])
    torch.testing.assert_close(made.content[0, 0], label_embedding_of(detr)[2])


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: TargetQueries(3, 8)([torch.rand(1, 4)], [torch.tensor([3])]),
            r"labels\[0\] must hold 0 ... 2",
        ),
        (
            lambda: TargetQueries(3, 8)([torch.rand(2, 4)], [torch.tensor([0])]),
            r"boxes\[0\] must be \[n, 4\]",
        ),
        (lambda: TargetQueries(3, 8, copies=0), "copies must be 1 or more"),
        (lambda: build_detr("detr", 3), "architecture must be"),
        (lambda: ConsistentLogitDistillation(form="mse"), "form must be"),
        (lambda: MemoryDistillation(channels="max"), "channels must be"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)])
def test_plain_form_agrees(pair, counts):
    """Boxes rasterised one by one, GIoU as a diagonal, layers in a loop."""
    student, teacher = pair
    images, mask, boxes, labels = batch(*counts)
    queries = TargetQueries(3, SMALL["dim"])(boxes, labels)
    with torch.no_grad():
        ours, theirs = student.eval()(images, mask, queries), teacher(images, mask, queries)
    target = [{"boxes": b} for b in boxes]
    torch.testing.assert_close(plain.memory(ours, theirs, target), MemoryDistillation()(ours, theirs, target))
    expected = ConsistentLogitDistillation()(ours, theirs)
    torch.testing.assert_close(plain.logits(ours, theirs), expected, rtol=1e-4, atol=1e-5)
