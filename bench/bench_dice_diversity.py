"""dice_diversity, forward and backward, on ACAM-KD's masks: detection (6 masks) and segmentation (19)."""

import features
import harness
import pytest

import kdfast.functional as KF
from kdfast.ops.dice_diversity import FORMS, dice_diversity_reference


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(2, 6, 100, 152), (8, 19, 64, 128)], ids=lambda s: "x".join(map(str, s)))
def test_dice_diversity(benchmark, shape, form):
    masks, unused = features.noise(shape).sigmoid(), features.noise(shape, seed=1)

    def matrix_product(m, _):
        """Inner products by bmm; the masks' sizes are ordinary here, so nothing is scaled."""
        m = m.flatten(2)
        gram = m @ m.mT
        square, count = gram.diagonal(dim1=1, dim2=2), m.size(1)
        if form == "ratio_of_sums":
            return ((gram.sum((1, 2)) - square.sum(1)) / square.sum(1)).mean()
        pairs = 2 * gram / (square.unsqueeze(1) + square.unsqueeze(2))
        return ((pairs.sum((1, 2)) - count) / (count * (count - 1))).mean()

    plain = {
        "definition": lambda m, _: dice_diversity_reference(m, form=form),
        "eager": matrix_product,
    }
    ours = lambda m, _: KF.dice_diversity(m, form=form)  # noqa: E731
    name = "x".join(map(str, shape)) + " " + form
    harness.compare(features.case("dice_diversity", name, masks, unused, ours, plain), benchmark)
