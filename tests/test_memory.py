"""Blocks kept for the next step: reused when nothing holds them, never before, and never beyond the limit."""

import os
import subprocess
import sys
import threading

import pytest
import torch

import kdfast
import kdfast.functional as KF

SHAPE = (512, 2048)  # 4 MB of gradient
BYTES = 512 * 2048 * 4


@pytest.fixture(autouse=True)
def clean(need):
    need.backend("native")
    kdfast.memory.empty_cache()
    with kdfast.use("native"):
        yield
    kdfast.memory.empty_cache()


def gradient(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(KF.kl_div(leaf, teacher), leaf)[0]


def definition(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return (student.double().softmax(1) - teacher.double().softmax(1)) / len(student)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator) for _ in range(3)]


def close(ours, student, teacher):
    torch.testing.assert_close(ours.double(), definition(student, teacher), rtol=1e-5, atol=1e-9)


def test_a_block_serves_the_next_step(logits):
    a, b, c = logits
    first = gradient(a, b)
    where = first.data_ptr()
    del first
    assert kdfast.memory.cached_bytes() >= BYTES
    second = gradient(a, c)
    assert second.data_ptr() == where
    close(second, a, c)


def test_what_is_held_is_never_handed_out(logits):
    a, b, c = logits
    first, second = gradient(a, b), gradient(b, c)
    part = first[3:5]  # a view holds the block
    del first
    third = gradient(c, a)
    assert len({part.storage_offset() * 4 + x.data_ptr() for x in (second, third)}) == 2
    close(second, b, c)
    close(third, c, a)
    torch.testing.assert_close(part.double(), definition(a, b)[3:5], rtol=1e-5, atol=1e-9)


def test_the_limit_holds(logits):
    a, b, c = logits
    before = kdfast.memory.set_cache_limit(2 * BYTES)
    try:
        kept = [gradient(a, b) for _ in range(5)]
        del kept
        assert kdfast.memory.cached_bytes() == 2 * BYTES
        assert kdfast.memory.set_cache_limit(0) == 2 * BYTES
        assert kdfast.memory.cached_bytes() == 0
        close(gradient(a, c), a, c)
        assert kdfast.memory.cached_bytes() == 0
    finally:
        kdfast.memory.set_cache_limit(before)


def test_strides_of_the_gradient_stay(logits):
    student = logits[0].view(2, 256, 64, 32).to(memory_format=torch.channels_last).requires_grad_()
    KF.kl_div(student, logits[1].view(2, 256, 64, 32), dim=1).backward()
    assert student.grad.is_contiguous(memory_format=torch.channels_last)


def test_threads_share_blocks(logits):
    a, b, _ = logits
    wanted, wrong = gradient(a, b), []

    def work():
        wrong.extend(i for i in range(10) if not torch.equal(gradient(a, b), wanted))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("limit", [-1, 1.5, "1", True])
def test_bad_limits(limit):
    with pytest.raises(ValueError, match="limit must be a whole number of bytes"):
        kdfast.memory.set_cache_limit(limit)


def test_a_slip_in_the_environment_is_a_sentence():
    code = "import torch, kdfast.functional as KF; x = torch.ones(512, 512); KF.kl_div(x.requires_grad_(), x)"
    environment = {**os.environ, "KDFAST_CPU_CACHE_MB": "many", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "KDFAST_CPU_CACHE_MB must be a whole number of megabytes, 0 or more, got many" in done.stderr
