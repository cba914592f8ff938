"""Distiller and Term: the sum they compute, what they own and refuse, and every wrapper they must survive."""

from __future__ import annotations

import copy
import gc
import pickle

import distill_ranks
import pytest
import torch
import torch.nn.functional as F
from ranks import on_two_ranks
from torch import nn
from torch.nn.modules.loss import _Loss
from torch.utils.checkpoint import checkpoint

from kdfast.distill import AutoAdapter, Distiller, Frozen, Term, TopK

X, Y = torch.randn(3, 4, generator=torch.Generator().manual_seed(5)), torch.tensor([0, 2, 1])


def mlp(width: int = 6, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(inplace=True), nn.Linear(width, 3))


def cnn(width: int, side: int = 8) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()
        ),
        nn.Flatten(),
        nn.Linear(2 * width * (side // 2) ** 2, 3),
    )


class SquaredError(_Loss):
    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return (student - teacher).square().mean()


class Scaled(nn.Module):
    """A loss with a parameter of its own and a target."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.scale * F.cross_entropy(student - teacher, target)


class FirstItem(nn.Module):
    """Returns (features, {"logits": ...}); a head nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        y = self.body(x)
        return y, {"logits": 2 * y}


def pair(*terms: Term, **options) -> Distiller:
    return Distiller(mlp(seed=1), mlp(seed=2), terms=list(terms) or [Term(nn.MSELoss(), "0", "0")], **options)


# ---- the sum ----


def test_loss_is_the_weighted_sum() -> None:
    terms = [Term(nn.MSELoss(), "0", "0", weight=3.0), Term(F.l1_loss, "", "", name="logits", weight=-0.5)]
    d = pair(*terms, task_loss=F.cross_entropy)
    out = d(X, target=Y)
    student, teacher = mlp(seed=1), mlp(seed=2)
    mse = F.mse_loss(student[0](X), teacher[0](X))
    l1 = F.l1_loss(student(X), teacher(X))
    torch.testing.assert_close(out.loss, F.cross_entropy(student(X), Y) + 3 * mse - 0.5 * l1)
    assert out._fields == ("loss", "terms", "output", "teacher")
    loss, values, output, taught = out
    torch.testing.assert_close(values, {"MSELoss": mse.detach(), "logits": l1.detach()})
    torch.testing.assert_close(output, student(X))
    torch.testing.assert_close(taught, teacher(X))
    assert loss.dim() == 0 and not taught.requires_grad
    assert all(value.dim() == 0 and not value.requires_grad for value in values.values())


def test_gradients_are_those_of_the_sum() -> None:
    d = pair(Term(nn.MSELoss(), "0", "0", weight=3.0), task_loss=F.cross_entropy)
    d(X, target=Y).loss.backward()
    student, teacher = mlp(seed=1), mlp(seed=2)
    (F.cross_entropy(student(X), Y) + 3 * F.mse_loss(student[0](X), teacher[0](X).detach())).backward()
    for ours, plain in zip(d.student.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad)
    assert all(p.grad is None for p in d.teacher.parameters())


def test_names() -> None:
    terms = [Term(nn.MSELoss()), Term(SquaredError()), Term(nn.MSELoss()), Term(nn.MSELoss(), name="mine")]
    terms += [Term(nn.MSELoss()), Term(F.mse_loss), Term(lambda s, t: (s - t).mean())]
    names = ["MSELoss", "SquaredError", "MSELoss_2", "mine", "MSELoss_3", "mse_loss", "loss"]
    assert list(pair(*terms)(X).terms) == names
    assert list(pair(Term(nn.MSELoss(), name="a"), Term(nn.L1Loss(), name="a"))(X).terms) == ["a", "a_2"]


def test_losses_with_parameters_and_targets() -> None:
    d = pair(Term(Scaled(), target=True))
    assert "terms.0.loss.scale" in dict(d.named_parameters())
    out = d(X, target=Y)
    out.loss.backward()
    torch.testing.assert_close(out.loss, 2 * d.terms[0].loss.scale.grad)
    with pytest.raises(ValueError, match="target is None, but 'Scaled' needs it"):
        d(X)
    with pytest.raises(ValueError, match="target is None, but task_loss needs it"):
        pair(task_loss=F.cross_entropy)(X)


def test_kdfast_losses() -> None:
    from kdfast.nn import KLDivLoss

    d = pair(Term(KLDivLoss(temperature=4.0)))
    out = d(X)
    want = 16 * F.kl_div(
        F.log_softmax(out.output / 4, -1),
        F.log_softmax(out.teacher / 4, -1),
        log_target=True,
        reduction="batchmean",
    )
    torch.testing.assert_close(out.loss, want)
    with pytest.raises(
        ValueError, match="student module '0' gave \\[3, 6\\] and teacher module '' gave \\[3, 3\\]"
    ):
        pair(Term(KLDivLoss(), "0", ""))(X)


def test_warmup_is_a_tensor_buffer() -> None:
    d = pair(Term(nn.MSELoss(), warmup=4, weight=2.0), Term(nn.L1Loss()))
    assert "progress" in d.state_dict()
    for progress, factor in ((None, 0.0), (1, 0.25), (3.0, 0.75), (torch.tensor(4), 1.0), (9, 1.0)):
        if progress is not None:
            d.set_progress(progress)
        out = d(X)
        torch.testing.assert_close(out.loss, 2 * factor * out.terms["MSELoss"] + out.terms["L1Loss"])
    fresh = pair(Term(nn.MSELoss(), warmup=4, weight=2.0), Term(nn.L1Loss()))
    fresh.load_state_dict(d.state_dict())
    assert fresh.progress == 9
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="progress"):
            d.set_progress(wrong)


def test_progress_is_not_rounded_with_the_model() -> None:
    d = pair(Term(nn.MSELoss(), warmup=4))
    d.set_progress(1001.25)
    d.to(torch.bfloat16)
    assert d.progress.dtype == torch.float32 and d.progress == 1001.25


def test_keyword_inputs_reach_both_models() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, *, shift: float) -> torch.Tensor:
            return self.linear(x) + shift

    d = Distiller(Shift(), Shift(), [Term(nn.MSELoss())])
    out = d(X, shift=5.0)
    torch.testing.assert_close(out.output, d.student.linear(X) + 5)
    torch.testing.assert_close(out.teacher, d.teacher.linear(X) + 5)


def test_teacher_inputs() -> None:
    d = pair(teacher_inputs=lambda x: (x - 1) / 2)
    torch.testing.assert_close(d(X).teacher, mlp(seed=2)((X - 1) / 2))


# ---- the teacher ----


def test_the_teacher_is_frozen_hidden_and_in_eval_mode() -> None:
    teacher = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    d = Distiller(mlp(), teacher, [Term(nn.MSELoss())])
    assert d.teacher is teacher and all(module is not teacher for module in d.modules())
    d.train()
    assert d.student.training and not any(module.training for module in teacher.modules())
    before = copy.deepcopy(teacher.state_dict())
    ours = {id(p) for p in d.parameters()} | {id(b) for b in d.buffers()}
    assert not ours & {id(p) for p in [*teacher.parameters(), *teacher.buffers()]}
    assert not any("teacher" in name or "frozen" in name for name in d.state_dict())
    assert not any(p.requires_grad for p in teacher.parameters())
    d(X).loss.backward()
    teacher.train()  # even so
    d(X)
    assert not teacher.training
    torch.testing.assert_close(dict(teacher.state_dict()), dict(before))


def test_the_teacher_moves_but_keeps_its_dtype() -> None:
    d = pair()
    d.half().double().to(torch.bfloat16)
    assert {p.dtype for p in d.teacher.parameters()} == {torch.float32}
    assert {p.dtype for p in d.student.parameters()} == {torch.bfloat16}
    d.float()
    out = d(X.double().float())
    assert out.teacher.dtype == torch.float32
    d.to("meta")
    assert {p.device.type for p in [*d.teacher.parameters(), *d.parameters(), d.progress]} == {"meta"}


def test_half_precision_students_with_a_float_teacher() -> None:
    d = pair(Term(nn.MSELoss(), "0", "0")).to(torch.bfloat16)
    out = d(X.bfloat16())
    assert (out.output.dtype, out.teacher.dtype, out.loss.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )
    out.loss.backward()


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), SquaredError()]
)
def test_teacher_dtype(loss) -> None:
    d = pair(Term(loss), teacher_dtype=torch.bfloat16)
    assert {p.dtype for p in d.teacher.parameters()} == {torch.bfloat16}
    d.float()
    assert {p.dtype for p in d.teacher.parameters()} == {torch.bfloat16}
    out = d(X)
    out.loss.backward()
    assert out.teacher.dtype == torch.bfloat16 and out.loss.dtype == torch.float32
    with pytest.raises(TypeError, match="dtype must be"):
        pair(teacher_dtype=torch.int8)


def test_no_host_synchronisation() -> None:
    """On the meta device reading a value is impossible, so what runs there never reads one."""
    d = pair(Term(nn.MSELoss(), "0", "0", adapter="auto", warmup=3), task_loss=F.cross_entropy).to("meta")
    out = d(X.to("meta"), target=Y.to("meta"))
    assert out.loss.is_meta
    out.loss.backward()


def test_a_frozen_stage_lets_gradients_through() -> None:
    class ThroughStage(nn.Module):
        def __init__(self, stage: nn.Module) -> None:
            super().__init__()
            self.project, self.stage = nn.Linear(6, 6), Frozen(stage)

        def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            return F.mse_loss(self.stage(self.project(student)), teacher)

    teacher = mlp(seed=2)
    d = Distiller(mlp(seed=1), teacher, [Term(ThroughStage(teacher[2]), "0", "")])
    assert sorted(n for n, _ in d.terms.named_parameters()) == [
        "0.loss.project.bias",
        "0.loss.project.weight",
    ]
    d(X).loss.backward()
    assert d.student[0].weight.grad.abs().sum() > 0 and d.terms[0].loss.project.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())
    d.train().to(torch.float64)
    assert teacher[2].weight.dtype == torch.float32 and not teacher[2].training
    d.to("meta")
    assert teacher[2].weight.is_meta


# ---- adapters ----


def test_auto_adapters_exist_at_construction() -> None:
    d = Distiller(mlp(5), mlp(7), [Term(nn.MSELoss(), "0", "0", adapter="auto")])
    assert isinstance(d.terms[0].adapter, AutoAdapter)
    names = [name for name, _ in d.named_parameters() if "adapter" in name]
    assert names == ["terms.0.adapter.projection.weight", "terms.0.adapter.projection.bias"]
    d(X).loss.backward()
    assert d.terms[0].adapter.projection.weight.grad is not None


@pytest.mark.parametrize("path", ["0", "1", "2", "3"])
def test_auto_adapters_from_an_example_forward(path) -> None:
    """Layers without a declared size; 28x28 is the only input that the head accepts."""
    student, teacher = cnn(2, side=28), cnn(4, side=28)
    before = copy.deepcopy(student.state_dict())
    random = torch.get_rng_state()
    d = Distiller(student, teacher, [Term(nn.MSELoss(), path, path)])
    torch.testing.assert_close(torch.get_rng_state(), random)
    d = Distiller(student, copy.deepcopy(teacher), [Term(nn.MSELoss(), path, path, adapter="auto")])
    torch.testing.assert_close(dict(student.state_dict()), dict(before))
    assert student.training and any(p.requires_grad for p in d.terms.parameters())
    d(torch.randn(2, 1, 28, 28)).loss.backward()


def test_auto_adapters_resize_maps_and_tokens() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(1, 10, 4, stride=4)
            self.norm = nn.LayerNorm(10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.embed(x).flatten(2).transpose(1, 2))

    x = torch.randn(2, 1, 16, 16)
    for student, path, teacher, other in (
        (cnn(2, 16), "0", cnn(3, 16), "2"),  # 16x16 -> 8x8
        (cnn(2, 16), "2", cnn(3, 16), "0"),  # 8x8 -> 16x16
        (cnn(2, 16), "2", Patches(), "norm"),  # map -> tokens
        (Patches(), "norm", cnn(3, 16), "0"),  # tokens -> map
    ):
        d = Distiller(student, teacher, [Term(nn.MSELoss(), path, other, adapter="auto")], example_inputs=x)
        d(x).loss.backward()


def test_equal_channels_need_no_projection() -> None:
    d = Distiller(mlp(6), mlp(6, seed=3), [Term(nn.MSELoss(), "0", "0", adapter="auto")])
    assert not list(d.terms.parameters())


def test_auto_adapters_that_cannot_be_built_say_so() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 3), nn.Flatten())

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.body(x + y)

    term = Term(nn.MSELoss(), "body", "0", adapter="auto")
    with pytest.raises(ValueError, match="adapter='auto' of 'MSELoss' .* example_inputs"):
        Distiller(Two(), mlp(), [term])
    with pytest.raises(ValueError, match="term 'MSELoss': student module 'body' gave .* do not fit"):
        Distiller(
            Two(), cnn(2), [term], example_inputs=(X, X), teacher_inputs=lambda x, y: x.new_zeros(3, 1, 8, 8)
        )
    d = Distiller(Two(), mlp(), [term], example_inputs=(X, X), teacher_inputs=lambda x, y: x + y)
    d(X, X).loss.backward()


def test_own_adapters() -> None:
    adapter = nn.Linear(5, 7)
    d = Distiller(mlp(5), mlp(7), [Term(nn.MSELoss(), "0", "0", adapter=adapter)])
    assert d.terms[0].adapter is adapter
    d(X).loss.backward()
    assert adapter.weight.grad is not None


def test_lazy_adapters_are_built_at_construction() -> None:
    adapter = nn.Sequential(nn.LazyLinear(9), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(7))
    d = Distiller(mlp(5), mlp(7), [Term(nn.MSELoss(), "0", "0", adapter=adapter)])
    assert adapter[0].weight.shape == (9, 5) and adapter[3].weight.shape == (7, 9)
    assert not adapter[1].running_mean.any() and adapter.training
    d(X).loss.backward()


# ---- what does not fit ----


@pytest.mark.parametrize("loss", [nn.MSELoss(), SquaredError(), F.mse_loss, lambda s, t: (s * t).sum()])
def test_shapes_that_do_not_fit_name_both_sides(loss) -> None:
    d = Distiller(mlp(5), mlp(7), [Term(loss, "0", "1", name="kd")])
    message = "'kd'.*student module '0' gave \\[3, 5\\].*teacher module '1' gave \\[3, 7\\].*adapter=\"auto\""
    with pytest.raises(ValueError, match=message):
        d(X)


def test_shapes_that_would_broadcast_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Distiller(mlp(1), mlp(7), [Term(nn.MSELoss(), "0", "0")])(X)


def test_losses_that_take_different_shapes_may() -> None:
    def relations(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(student @ student.T, teacher @ teacher.T)

    Distiller(mlp(5), mlp(7), [Term(relations, "0", "0")])(X).loss.backward()


def test_example_inputs_check_shapes_at_construction() -> None:
    with pytest.raises(ValueError, match="gave \\[3, 5\\].*gave \\[3, 7\\]"):
        Distiller(mlp(5), mlp(7), [Term(nn.MSELoss(), "0", "0")], example_inputs=X)


def test_an_adapter_that_does_not_fit_is_named() -> None:
    term = Term(nn.MSELoss(), "0", "0", adapter=nn.Linear(9, 7))
    with pytest.raises(ValueError, match="student module '0' gave \\[3, 5\\]"):
        Distiller(mlp(5), mlp(7), [term])(X)
    term = Term(nn.MSELoss(), "0", "0", adapter=nn.Linear(5, 9))
    with pytest.raises(ValueError, match="gave \\[3, 9\\] after Linear"):
        Distiller(mlp(5), mlp(7), [term])(X)


@pytest.mark.parametrize("paths, role", [(("hea", "0"), "student"), (("0", "hea"), "teacher")])
def test_missing_paths(paths, role) -> None:
    models = [mlp(), mlp(seed=1)]
    for model in models:
        model.add_module("head", nn.Identity())
    with pytest.raises(
        ValueError, match=f"student module .* teacher module .* the {role} Sequential .*'head'"
    ):
        Distiller(*models, [Term(nn.MSELoss(), *paths)])


def test_modules_that_return_more_than_a_tensor() -> None:
    d = Distiller(FirstItem(), mlp(), [Term(nn.MSELoss(), "[1][logits]", "")])
    torch.testing.assert_close(d(X).loss, F.mse_loss(2 * d.student.body(X), d.teacher(X)))
    d = Distiller(FirstItem(), FirstItem(), [Term(lambda s, t: F.mse_loss(s[1]["logits"], t[0]))])
    torch.testing.assert_close(d(X).loss, F.mse_loss(2 * d.student.body(X), d.teacher.body(X)))
    for adapter in (None, "auto"):
        with pytest.raises(
            TypeError, match=r"student module '' gave a tuple of 2 \(a tensor \[\d, 3\].*\[0\]"
        ):
            Distiller(FirstItem(), mlp(), [Term(nn.MSELoss(), adapter=adapter)], example_inputs=X)(X)


def test_values_that_are_not_scalars() -> None:
    with pytest.raises(
        ValueError, match="term 'MSELoss': the loss must return a 0-d tensor, got a tensor \\[3, 3\\]"
    ):
        pair(Term(nn.MSELoss(reduction="none")))(X)
    with pytest.raises(ValueError, match="task_loss: the loss must return"):
        pair(task_loss=lambda output, target: (output.sum(), 0))(X, target=Y)


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: Term(nn.MSELoss), TypeError),
        (lambda: Term("mse"), TypeError),
        (lambda: Term(nn.MSELoss(), 0), TypeError),
        (lambda: Term(nn.MSELoss(), weight="1"), TypeError),
        (lambda: Term(nn.MSELoss(), weight=float("nan")), ValueError),
        (lambda: Term(nn.MSELoss(), warmup=-1), ValueError),
        (lambda: Term(nn.MSELoss(), adapter="conv"), ValueError),
        (lambda: Term(nn.MSELoss(), adapter=nn.Linear), TypeError),
        (lambda: Term(nn.MSELoss(), name=""), ValueError),
        (lambda: Term(nn.MSELoss(), "0", "0", "name"), TypeError),
        (lambda: Distiller(mlp(), "teacher", [Term(nn.MSELoss())]), TypeError),
        (lambda: Distiller(mlp(), mlp(), [nn.MSELoss()]), TypeError),
        (lambda: Distiller(mlp(), mlp(), Term(nn.MSELoss())), TypeError),
        (lambda: Distiller(mlp(), mlp(), []), ValueError),
        (lambda: Distiller(mlp(), mlp(), [], task_loss="ce"), TypeError),
        (lambda: Distiller(nn.DataParallel(mlp()), mlp(), [Term(nn.MSELoss())]), TypeError),
        (lambda: Distiller(torch.compile(mlp()), mlp(), [Term(nn.MSELoss())]), RuntimeError),
        (lambda: Distiller(mlp(), torch.compile(mlp()), [Term(nn.MSELoss())]), RuntimeError),
    ],
)
def test_bad_arguments(make, error) -> None:
    with pytest.raises(error):
        make()


def test_a_teacher_that_shares_parameters() -> None:
    student = mlp()
    with pytest.raises(ValueError, match="share the parameter.*deepcopy"):
        Distiller(student, student, [Term(nn.MSELoss())])
    assert all(p.requires_grad for p in student.parameters())


# ---- export, copies, replay ----


def test_export_student() -> None:
    student = mlp()
    keys, before = list(student.state_dict()), pickle.dumps(student)
    d = Distiller(student, mlp(7), [Term(nn.MSELoss(), "0", "0", adapter="auto")])
    d(X)
    assert d.export_student() is student
    assert not any(module._forward_hooks for module in student.modules())
    assert list(student.state_dict()) == keys and pickle.dumps(student) == before
    assert b"kdfast" not in pickle.dumps(student)
    d(X).loss.backward()  # training may go on
    d.export_student()
    d.attach()
    assert student[0]._forward_hooks


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_are_independent(clone) -> None:
    d = pair(Term(nn.MSELoss(), "0", "0", adapter=nn.Linear(6, 6)))
    d(X)
    twin = clone(d)
    torch.testing.assert_close(twin(X).loss, d(X).loss)
    with torch.no_grad():
        twin.student[0].weight.zero_()
        twin.teacher[0].weight.zero_()
    assert not torch.equal(twin(X).loss, d(X).loss)
    twin.export_student()
    assert d.student[0]._forward_hooks and not twin.student[0]._forward_hooks


def test_hooks_go_with_the_distiller() -> None:
    student, teacher = mlp(), mlp(seed=1)
    d = Distiller(student, teacher, [Term(nn.MSELoss(), "0", "0")])
    d(X)
    del d
    gc.collect()
    assert not any(m._forward_hooks for model in (student, teacher) for m in model.modules())


def test_functions_that_cannot_be_pickled_raise() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(pair(Term(lambda s, t: (s - t).mean())))


def test_a_copy_of_the_student_alone_is_quiet() -> None:
    d = pair()
    d(X)
    average = torch.optim.swa_utils.AveragedModel(d.student)
    average(X)
    assert d._student_taps._calls is None
    torch.testing.assert_close(average(X), d.student(X))


def test_replay() -> None:
    logits, feature = torch.randn(3, 3), torch.randn(3, 6)
    d = Distiller(mlp(), None, [Term(nn.MSELoss()), Term(nn.MSELoss(), "0", "0")])
    out = d(X, replay={"": logits, "0": feature})
    assert out.teacher is logits
    torch.testing.assert_close(
        out.loss, F.mse_loss(d.student(X), logits) + F.mse_loss(d.student[0](X), feature)
    )
    with pytest.raises(ValueError, match="replay has '', but the terms need \\['0'\\]"):
        d(X, replay={"": logits})
    with pytest.raises(ValueError, match="no teacher"):
        d(X)
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(mlp(), None, [Term(nn.MSELoss(), adapter="auto")])

    def sparse(student: torch.Tensor, log_probs: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return (student.gather(-1, indices) - log_probs).square().sum()

    top = TopK(*logits.log_softmax(-1).topk(2))
    d = Distiller(mlp(), None, [Term(sparse)])
    torch.testing.assert_close(d(X, replay={"": top}).loss, sparse(d.student(X), *top))


# ---- wrappers ----


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


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.block, self.head = nn.Linear(4, 4), mlp(), nn.Linear(3, 3)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.reentrant is not None:
            return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))
        return self.head(self.block(x))


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


def test_several_paths_give_the_loss_a_tuple():
    """A term over two layers equals the sum of two terms, and its loss's parameters train."""
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)) for _ in range(2))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, s, t):
            return self.scale * sum(F.mse_loss(a, b) for a, b in zip(s, t, strict=True))

    x = torch.randn(5, 4)
    joint = Distiller(student, teacher, terms=[Term(Both(), ("0", "2"), ("0", "2"))])
    out = joint(x)
    apart = Distiller(student, teacher, terms=[Term(nn.MSELoss(), path, path) for path in ("0", "2")])
    torch.testing.assert_close(out.loss, apart(x).loss)
    out.loss.backward()
    assert joint.terms[0].loss.scale.grad is not None
    with pytest.raises(ValueError, match="has no module 'nowhere'"):
        Distiller(student, teacher, terms=[Term(Both(), ("0", "nowhere"), ("0", "2"))])
    with pytest.raises(ValueError, match="for one path on each side"):
        Term(nn.MSELoss(), ("0", "2"), "2", adapter="auto")
    with pytest.raises(TypeError, match="tuple of them"):
        Term(nn.MSELoss(), ("0", 2), "2")
