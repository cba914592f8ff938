"""class_sums: sums and counts of rows by class."""

import pytest
import torch
from feature_checks import DTYPES, noise, refuses

import kdfast.functional as KF
from kdfast.ops.class_sums import class_sums_reference

OP = "class_sums"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    for rows, width, classes in ((0, 4, 3), (1, 1, 1), (7, 33, 2), (1000, 65, 81), (3, 257, 1000)):
        x, y = noise((rows, width), dtype).to(place), (torch.arange(rows) * 7 % classes).to(place)
        sums, counts = KF.class_sums(x, y, classes)
        expected = class_sums_reference(x.double(), y, classes)
        assert (
            sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            and counts.dtype == torch.int64
        )
        torch.testing.assert_close(sums.double(), expected[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(counts, expected[1])
    x = noise((6, 40), dtype).to(place)
    y = torch.tensor([2, 0, 2, 1, 0, 0], device=place, dtype=torch.int32)
    for view in (x[:, ::2], x.t()[:6], x[:1].expand(6, 40)):
        torch.testing.assert_close(
            KF.class_sums(view, y, 3)[0], class_sums_reference(view.contiguous(), y, 3)[0]
        )


def test_bad_input():
    x = torch.rand(4, 3)
    refuses(
        ValueError, r"^target must be in \[0, 1\], got 2", KF.class_sums, x, torch.tensor([0, 1, 2, 0]), 2
    )
    refuses(ValueError, "target must be", KF.class_sums, x, torch.tensor([0, 1, -1, 0]), 2)
    refuses(ValueError, "one class per row", KF.class_sums, x, torch.tensor([0]), 2)
    refuses(TypeError, "num_classes", KF.class_sums, x, torch.tensor([0, 1, 1, 0]), 2.0)
    refuses(ValueError, "num_classes", KF.class_sums, x, torch.tensor([0, 1, 1, 0]), 0)
    refuses(TypeError, "ignore_index must be", KF.class_sums, x, torch.zeros(4).long(), 2, ignore_index=0.5)
    refuses(ValueError, "dtype must be", KF.class_sums, x, torch.zeros(4).long(), 2, dtype=torch.float16)


def test_float64_inside(place):
    """Small numbers come out whole between large ones that cancel."""
    x = torch.cat([torch.full((4, 3), 1e8), torch.full((4, 3), 0.125), torch.full((4, 3), -1e8)]).to(place)
    sums, counts = KF.class_sums(x, torch.zeros(12, dtype=torch.int64, device=place), 1)
    assert counts.item() == 12 and torch.equal(sums, torch.full((1, 3), 0.5, device=place))
    wide, _ = KF.class_sums(x, torch.zeros(12, dtype=torch.int64, device=place), 1, dtype=torch.float64)
    assert wide.dtype == torch.float64


def test_same_bits_every_time(place):
    x = noise((5000, 40), torch.float32).to(place)
    y = torch.randint(0, 7, (5000,), generator=torch.Generator().manual_seed(0)).to(place)
    first = KF.class_sums(x, y, 7, dtype=torch.float64)[0]
    assert all(torch.equal(KF.class_sums(x, y, 7, dtype=torch.float64)[0], first) for _ in range(3))


def test_ignored_rows(place):
    x, y = noise((9, 5)).to(place), torch.tensor([0, -1, 2, -1, 1, 1, 0, -1, 2], device=place)
    x[y == -1] = torch.nan
    sums, counts = KF.class_sums(x, y, 4, ignore_index=-1)
    expected = class_sums_reference(x[y >= 0], y[y >= 0], 4)
    torch.testing.assert_close((sums, counts), expected)
    assert counts.tolist() == [2, 2, 2, 0] and not sums[3].any()
    everything = torch.full((9,), -1, device=place)
    sums, counts = KF.class_sums(x, everything, 4, ignore_index=-1)
    assert not sums.any() and not counts.any()
    if place == "cpu":
        refuses(ValueError, "target must be", KF.class_sums, x, y, 2, ignore_index=-1)


def test_compiles(place):
    x, y = noise((9, 5), torch.float32).to(place), (torch.arange(9) % 4).to(place)
    compiled = torch.compile(lambda x, y: KF.class_sums(x, y, 4), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), KF.class_sums(x, y, 4))


def test_opcheck(need):
    need.backend("native")
    x, y = noise((9, 5), torch.float32), torch.arange(9) % 4
    torch.library.opcheck(torch.ops.kdfast.class_sums.default, (x, y, 4, None, False))
