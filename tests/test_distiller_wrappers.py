"""Distiller in what trains it: torch.compile, DDP and FSDP2, autocast, checkpointing, function transforms."""

from __future__ import annotations

import distill_ranks
import pytest
import torch
import torch.nn.functional as F
from distill_models import Checkpointed, SquaredError, X, Y, pair
from ranks import on_two_ranks
from torch import nn

from kdfast.distill import Distiller, Term


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_to_one_graph(backend) -> None:
    from kdfast.nn import KLDivLoss

    def make() -> Distiller:
        terms = [Term(nn.MSELoss(), "0", "0", adapter="auto", warmup=4), Term(SquaredError(), weight=2.0)]
        terms.append(Term(KLDivLoss(temperature=4.0)))
        return pair(*terms, task_loss=F.cross_entropy)

    torch.manual_seed(0)
    plain, d = make(), make()
    d.load_state_dict(plain.state_dict())
    compiled = torch.compile(d, fullgraph=True, backend=backend)
    for progress in (1.0, 2.0):
        for module in (plain, d):
            module.set_progress(progress)
            module.zero_grad()
        want = plain(X, target=Y)
        with torch._dynamo.config.patch(error_on_recompile=progress > 1):
            out = compiled(X, target=Y)
        want.loss.backward()
        out.loss.backward()
        torch.testing.assert_close(out, want)
        for ours, theirs in zip(d.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
    d.export_student()
    with pytest.raises(Exception, match=r"call attach\(\)"):
        compiled(X, target=Y)
    d.attach()
    torch.testing.assert_close(compiled(X, target=Y).loss, want.loss)
    for rows in (2, 1):
        torch.testing.assert_close(compiled(X[:rows], target=Y[:rows]), plain(X[:rows], target=Y[:rows]))


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path) -> None:
    """Under DDP, compiled DDP and FSDP2."""
    on_two_ranks(distill_ranks.every_wrapper, tmp_path)


def test_data_parallel_is_refused() -> None:
    replica = pair()
    replica._is_replica = True  # what DataParallel sets on the copies it runs in threads
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        replica(X)


def test_autocast_and_gradient_scaling() -> None:
    d = pair(Term(nn.MSELoss(), "0", "0", adapter="auto"), task_loss=F.cross_entropy)
    optimizer = torch.optim.SGD(d.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    start = d.student[0].weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = d(X, target=Y)
        assert out.output.dtype == torch.bfloat16 and out.loss.dtype == torch.float32
        scaler.scale(out.loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert not torch.equal(d.student[0].weight, start) and d.student[0].weight.isfinite().all()


def test_activation_checkpointing() -> None:
    gradients = []
    for reentrant in (None, False):
        d = Distiller(
            Checkpointed(reentrant),
            Checkpointed(None),
            [Term(SquaredError(), "block.0", "stem", adapter=nn.Linear(6, 4))],
        )
        with torch.no_grad():
            d.terms[0].adapter.weight.fill_(0.1)
            d.terms[0].adapter.bias.zero_()
        out = d(X)
        (out.loss + out.output.square().sum()).backward()
        gradients.append([p.grad for p in d.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_features_that_gradients_cannot_reach() -> None:
    d = Distiller(Checkpointed(True), Checkpointed(None), [Term(nn.MSELoss(), "block.0", "block.0")])
    with pytest.raises(
        RuntimeError, match="student module 'block.0' ran without gradients.*use_reentrant=False"
    ):
        d(X)
    with torch.no_grad():
        d(X)


def test_function_transforms() -> None:
    d = pair()
    parameters = dict(d.named_parameters())
    gradients = torch.func.grad(lambda p: torch.func.functional_call(d, p, (X,)).loss)(parameters)
    d(X).loss.backward()
    torch.testing.assert_close(gradients["student.0.weight"], d.student[0].weight.grad)


def test_first_call_adds_gradients_up_in_the_order_of_later_ones():
    """The first forward notes copies; a resumed run starts with one, and must not differ in the last bits."""

    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.heads = nn.Linear(16, 16), nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

        def forward(self, x):
            x = self.body(x)
            return sum(head(x).tanh() for head in self.heads)

    class Loss(nn.Module):
        def forward(self, s, t):
            return sum(((s - t) * k).sin().sum() for k in (1.0, 3.0, 7.0))

    torch.manual_seed(0)
    student, teacher = Trunk(), Trunk()
    d = Distiller(student, teacher, [Term(Loss(), "body", "body")], task_loss=F.mse_loss)
    x, target, found = torch.randn(32, 16), torch.randn(32, 16), []
    for _ in range(2):
        d.zero_grad()
        d(x, target=target).loss.backward()
        found.append(student.body.weight.grad.clone())
    assert torch.equal(*found)
