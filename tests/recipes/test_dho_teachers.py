"""DHO's teachers: prompts, class vectors, zero-shot and Tip-Adapter logits against the published vectors."""

import pytest
import torch
import torch.nn.functional as F
from waves import close, wave

from kdfast.recipes import dho
from kdfast.recipes.dho import conse

TEXT = [
    ("renormalize", (-0.004293202894, 0.6723571939, 0.7308454874, 0.1173978102), 4.99838351),
    ("mean_of_unit", (-0.001475163116, 0.231024845, 0.2511216761, 0.04033839625), 2.013143285),
    ("mean", (-0.01730366113, 0.3405234312, 0.3852748513, 0.07580634989), 2.914440834),
]


@pytest.mark.parametrize(("how", "first", "total"), TEXT)
def test_class_vectors(how, first, total):
    found = dho.class_vectors(wave((3, 2, 4), 1, 0.1), how)
    close(found[0], first)
    close(found.abs().sum(), total)


TEACHERS = [
    ("renormalize", None, (-6.248133569, 99.74445186, -18.52006819, 71.62777786, -78.72713341, -52.23933915,
                           -97.4434013, -9.244786401, 99.97538169)),
    ("mean_of_unit", None, (-2.146885766, 49.7163167, -6.406543447, 24.61161482, -39.24050937, -18.07086197,
                            -33.48197489, -4.607942797, 34.58392377)),
    ("renormalize", (1.17, 1.0), (-4.521544289, 100.1856227, -17.45820812, 72.23527525, -77.02263101,
                                  -51.72799869, -96.8202603, -8.50074961, 101.460821)),
    ("renormalize", (2, 5.5), (-5.429727277, 99.74491383, -18.43941635, 71.63105454, -78.01819982,
                               -52.23821402, -97.43991328, -9.234876684, 100.3267353)),
]  # fmt: skip


@pytest.mark.parametrize(("how", "numbers", "wanted"), TEACHERS)
def test_teacher_vectors(how, numbers, wanted):
    classes = dho.class_vectors(wave((3, 2, 4), 1, 0.1), how)
    v = wave((3, 4), 1, 0.6)
    if numbers is None:
        found = dho.zero_shot_logits(v, classes)
    else:
        values = F.one_hot(torch.tensor([0, 1, 2, 0, 1, 2])).double()
        found = dho.tip_adapter_logits(v, wave((6, 4), 0.5, 0.5), values, classes, *numbers)
    close(found.flatten(), wanted)


def test_prompts():
    assert dho.prompts(["fire_truck"], ["a photo of a {}.", "{}"]) == [
        "a photo of a fire truck.",
        "fire truck",
    ]
    with pytest.raises(ValueError, match="templates with {}"):
        dho.prompts(["cat"], ["a photo"])


def test_text_head_is_the_text_classifier():
    def encode(texts):
        return torch.stack([torch.tensor([len(text), text.count("a"), 1.0]) for text in texts])

    head = dho.ClipTextHead(encode, ["cat", "banana"], normalize_text=True)
    v = torch.randn(5, 3)
    classes = dho.class_embeddings(encode, ["cat", "banana"])
    close(100 * head(F.normalize(v, dim=-1)), dho.zero_shot_logits(v, classes), 1e-5)


def test_tip_adapter_learns_its_cache():
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(4, 16), dim=-1)
    y = torch.arange(4).repeat(8)
    v = F.normalize(centres[y] + 0.15 * torch.randn(32, 16), dim=-1)
    other = F.normalize(centres[y] + 0.15 * torch.randn(32, 16), dim=-1)
    wrong = F.normalize(torch.randn(4, 16), dim=-1) / 100  # text that knows nothing
    A, V, alpha, beta, accuracy = dho.fit_tip_adapter(v[None], y, wrong, (other, y))
    teacher = dho.TipAdapter(torch.nn.Identity(), A, V, wrong, alpha, beta)
    assert accuracy == (teacher(other).argmax(1) == y).double().mean().item() > 0.9


def test_conse_is_a_mean_of_text_embeddings():
    torch.manual_seed(0)
    logits, classes = torch.randn(3, 20), torch.randn(20, 5)
    found = conse.ConSE(torch.nn.Identity(), classes, top=4)(logits)
    for row, p in zip(found, logits.softmax(-1), strict=True):
        best = sorted(range(20), key=lambda k: -p[k])[:4]
        wanted = sum(p[k] * classes[k] for k in best) / sum(p[k] for k in best)
        torch.testing.assert_close(row, wanted)
