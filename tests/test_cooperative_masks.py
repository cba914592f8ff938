"""CooperativeMasks, the mask generation of ACAM-KD, against its test vectors and the eager chain."""

import pytest
import torch
import torch.nn.functional as F
from feature_checks import near, noise, refuses, size
from waves import wave

import kdfast.functional as KF
import kdfast.nn

# ACAM-KD's vectors 3 to 6: shape, then what the masks' sums and the losses must be.
VECTORS = {
    "3": ((2, 6, 6, 3, 4, 3), 18.01923271, 43.29225322, (1.836665932, 2.354492072, 3.991873315, 6.282022718)),
    "4": (
        (1, 5, 4, 3, 3, 4),
        10.00651351,
        17.92366512,
        (0.5817028635, 0.5761965638, 5.841600853, 1.466468046),
    ),
    "5": ((3, 6, 6, 1, 1, 2), 24.56924028, 3.25279478, (2.498721264, 2.094917295, 1.962034864, 6.955247582)),
    "6": ((2, 6, 6, 4, 6, 3), None, None, (1.646990291, 1.731652404, 3.897023207, 5.600035995)),
}
# |gradient| of query.weight/bias, key.weight, value.weight/bias, spatial_units, channel_units.
GRADS = {
    "3": (0.09737438427, 0.04910267801, 0.4988114824, 3.460144835, 2.055686657, 2.350972904, 0.04523193536),
    "4": (0.02806370085, 0.02557940762, 0.05233041767, 1.777339752, 1.699458935, 0.5199132792, 0.03645490113),
    "5": (0, 0, 0, 11.24576356, 2.556977677, 8.787375955, 1.05943041),
}


def vector(name, **options):
    """The module with the vector's parameters, in float64; student, teacher, alignment's weight and bias."""
    batch, channels, student_channels, height, width, masks = VECTORS[name][0]
    half = channels // 2
    module = kdfast.nn.CooperativeMasks(channels, student_channels, masks, **options).double()
    values = {
        "query.weight": wave((half, channels, 1, 1), 0.5, 0.1),
        "query.bias": wave((half,), 0.2, 0.2),
        "key.weight": wave((half, student_channels, 1, 1), 0.5, 0.3),
        "key.bias": wave((half,), 0.2, 0.4),
        "value.weight": wave((channels, student_channels, 1, 1), 0.5, 0.5),
        "value.bias": wave((channels,), 0.2, 0.6),
        "spatial_units": wave((masks, channels), 0.8, 0.7),
        "channel_units": wave((masks, 1), 0.8, 0.8),
    }
    module.load_state_dict(values)
    teacher = wave((batch, channels, height, width), 1.5, 0.0)
    student = wave((batch, student_channels, height, width), 1.2, 0.4).requires_grad_()
    return module, student, teacher, wave((channels, student_channels), 0.5, 0.9), wave((channels,), 0.2, 1.1)


def losses(module, student, teacher, weight, bias, detach=False):
    """L^c, L^s, L_div and the masks."""
    spatial, channel = module(student, teacher)
    aligned = F.conv2d(student, weight[..., None, None], bias)
    cut = (lambda x: x.detach()) if detach else (lambda x: x)
    loss_s, loss_c = KF.masked_mse(aligned, teacher, spatial=cut(spatial), channel=cut(channel))
    with kdfast.use("auto"):  # Triton has no kernel of it
        diversity = KF.dice_diversity(spatial) + KF.dice_diversity(channel)
    return loss_c, loss_s, diversity, spatial, channel


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(place, name):
    module, *rest = vector(name, kv_pool=2 if name == "6" else None)
    module, (student, *rest) = module.to(place), (x.detach().to(place) for x in rest)
    student.requires_grad_()
    *three, spatial, channel = losses(module, student, *rest)
    _, channel_sum, spatial_sum, expected = VECTORS[name]
    if channel_sum is not None:
        near(channel.sum(), channel_sum), near(spatial.sum(), spatial_sum)
    for loss, value in zip(three, expected, strict=False):
        near(loss, value)
    named = dict(module.named_parameters())
    grads = torch.autograd.grad(sum(three), [student, *named.values()])
    near(size(grads[0]), expected[3])
    found = {name: size(grad) for name, grad in zip(named, grads[1:], strict=True)}
    assert found.pop("key.bias") < 1e-12
    order = (
        "query.weight",
        "query.bias",
        "key.weight",
        "value.weight",
        "value.bias",
        "spatial_units",
        "channel_units",
    )
    for parameter, value in zip(order, GRADS.get(name, ()), strict=False):
        near(found[parameter], value, 1e-8) if value else near(found[parameter], 0)


@pytest.mark.parametrize(
    "detach, cut, expected",
    [
        (True, False, (5.9845803, 0.5033176115, 0.007859725232)),
        (False, True, (5.993168036, 2.350972904, 0.09737438427)),
        (True, True, (5.993168036, 0.5033176115, 0.007859725232)),
    ],
)
def test_stop_gradients(detach, cut, expected):
    module, *rest = vector("3", detach_student_in_attention=cut)
    total = sum(losses(module, *rest, detach=detach)[:3])
    near(total, 8.183031318)
    grads = torch.autograd.grad(total, [rest[0], module.spatial_units, module.query.weight])
    for grad, value in zip(grads, expected, strict=True):
        near(size(grad), value, 1e-8)


def eager(module, student, teacher):
    """The equations as the paper prints them, with A and F in memory."""
    q, k, v = (
        (conv(x)).flatten(2)
        for conv, x in ((module.query, teacher), (module.key, student), (module.value, student))
    )
    a = (q.mT @ k / q.size(1) ** 0.5).softmax(2)
    fused = v @ a.mT
    spatial = (module.spatial_units @ fused).sigmoid().unflatten(2, teacher.shape[2:])
    channel = (module.channel_units * fused.mean(2).unsqueeze(1)).sigmoid()
    return spatial, channel


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (13, 19)], ids=str)
def test_the_eager_chain_agrees(place, shape):
    module = kdfast.nn.CooperativeMasks(19, 12, 5).to(place)
    with torch.no_grad():
        module.spatial_units.mul_(50), module.channel_units.mul_(50)
    student = noise((2, 12, *shape), torch.float32).to(place).requires_grad_()
    teacher = noise((2, 19, *shape), torch.float32, 1).to(place)
    ours, plain = module(student, teacher), eager(module, student, teacher)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)
    parameters = [student, *module.parameters()]
    grads, expected = (
        torch.autograd.grad(a.square().sum() + b.square().sum(), parameters, allow_unused=True)
        for a, b in (ours, plain)
    )
    for grad, truth in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, truth, rtol=1e-3, atol=1e-4)
    assert all(float(x.min()) > 0 and float(x.max()) < 1 for x in ours)


@pytest.mark.parametrize("pool", [None, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_the_slow_path_agrees(pool, padded):
    module = kdfast.nn.CooperativeMasks(6, 4, 3, kv_pool=pool).double()
    student, teacher = noise((3, 4, 5, 7)), noise((3, 6, 5, 7), seed=1)
    valid = torch.ones(3, 5, 7, dtype=torch.bool)
    valid[0, :, 4:], valid[1] = False, False
    keywords = {"valid_mask": valid} if padded else {}
    fast = module(student, teacher, **keywords)
    slow = module.masks(module.fuse(student, teacher, **keywords), **keywords)
    torch.testing.assert_close(fast, slow)


def test_padding():
    """Padding changes nothing inside; an image of padding alone has finite masks and gradients."""
    module = kdfast.nn.CooperativeMasks(6, 4, 3).double()
    student, teacher = noise((2, 4, 5, 7)), noise((2, 6, 5, 7), seed=1)
    valid = torch.zeros(2, 8, 9, dtype=torch.bool)
    valid[:, :5, :7] = True
    pad = lambda x: F.pad(x, (0, 2, 0, 3), value=torch.nan)  # noqa: E731
    expected = module(student, teacher)
    spatial, channel = module(pad(student), pad(teacher), valid_mask=valid)
    torch.testing.assert_close((spatial[:, :, :5, :7], channel), expected)
    assert not spatial[:, :, 5:].any() and not spatial[..., 7:].any()
    padded = pad(student).requires_grad_()
    valid[1] = False
    spatial, channel = module(padded, pad(teacher), valid_mask=valid)
    assert not spatial[1].any() and (channel[1] == 0.5).all()
    grads = torch.autograd.grad(spatial.sum() + channel.square().sum(), [padded, *module.parameters()])
    assert all(grad.isfinite().all() for grad in grads)


def test_shared_units():
    first = kdfast.nn.CooperativeMasks(6, 4, 3)
    second = kdfast.nn.CooperativeMasks(6, 8, 3, units=first)
    assert second.spatial_units is first.spatial_units and second.channel_units is first.channel_units
    pyramid = torch.nn.ModuleList([first, second])
    assert sum(p is first.spatial_units for p in pyramid.parameters()) == 1
    refuses(ValueError, "units must be", kdfast.nn.CooperativeMasks, 6, 4, 5, units=first)
    refuses(TypeError, "units must be a CooperativeMasks", kdfast.nn.CooperativeMasks, 6, 4, 3, units=3)


def test_statistics():
    spatial, channel = torch.tensor([[[[0.2, 0.4]], [[0.2, 0.4]]]]), torch.tensor([[[0.5], [0.7]]])
    found = kdfast.nn.CooperativeMasks.statistics(spatial, channel)
    expected = {
        "spatial_mean": 0.3,
        "spatial_min": 0.2,
        "spatial_max": 0.4,
        "spatial_overlap": 1.0,
        "channel_mean": 0.6,
    }
    for name, value in expected.items():
        near(found[name], value, 1e-6)
    valid = torch.tensor([[[True, False]]])
    near(kdfast.nn.CooperativeMasks.statistics(spatial, channel, valid_mask=valid)["spatial_max"], 0.2, 1e-6)
    assert not any(
        x.isnan() for x in kdfast.nn.CooperativeMasks.statistics(spatial[:0], channel[:0]).values()
    )


def test_with_pytorch():
    """autocast, half precision, fullgraph, an empty batch."""
    module = kdfast.nn.CooperativeMasks(6, 4, 3)
    student, teacher = noise((2, 4, 5, 7), torch.float32), noise((2, 6, 5, 7), torch.float32, 1)
    expected = module(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(module(student, teacher), expected, strict=True))
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(student, teacher), expected)
    half = module(student.bfloat16(), teacher.bfloat16())
    assert half[0].dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0, atol=2e-2)
    assert module(student[:0], teacher[:0])[0].shape == (0, 3, 5, 7)
    grad_teacher = teacher.clone().requires_grad_()
    assert not module(student, grad_teacher)[0].requires_grad or torch.autograd.grad(
        module(student, grad_teacher)[0].sum(), grad_teacher, allow_unused=True
    ) == (None,)


def test_bad_input():
    make = kdfast.nn.CooperativeMasks
    refuses(ValueError, "num_masks must be at least 1", make, 6, 4, 0)
    refuses(ValueError, "channels must be at least 2", make, 1, 4, 3)
    refuses(TypeError, "student_channels must be an int", make, 6, 4.0, 3)
    refuses(ValueError, "kv_pool must be at least 1", make, 6, 4, 3, kv_pool=0)
    module, student, teacher = make(6, 4, 3), torch.randn(2, 4, 5, 7), torch.randn(2, 6, 5, 7)
    refuses(TypeError, "student must be a tensor", module, None, teacher)
    refuses(ValueError, r"student must be \[batch, 4, height, width\]", module, teacher, teacher)
    refuses(ValueError, r"teacher must be \[batch, 6, height, width\]", module, student, student)
    refuses(ValueError, "the same batch, height and width", module, student[:1], teacher)
    refuses(ValueError, "the same batch, height and width", module, student[..., :3], teacher)
    refuses(ValueError, "at least 1 high and wide", module, student[..., :0], teacher[..., :0])
    refuses(TypeError, "valid_mask must be bool", module, student, teacher, valid_mask=torch.ones(2, 5, 7))
    wrong = torch.ones(2, 7, 5, dtype=torch.bool)
    meaning = r"valid_mask must be \[batch, height, width\]"
    refuses(ValueError, meaning, module, student, teacher, valid_mask=wrong)
    masks = module(student, teacher)
    refuses(ValueError, "valid_mask must be", module.statistics, *masks, valid_mask=wrong)
    refuses(TypeError, "valid_mask must be bool", module.statistics, *masks, valid_mask=torch.ones(2, 5, 7))
    refuses(ValueError, "fused must be", module.masks, student)
