"""`python -m kdfast --check`: every op is computed and right, and what is wrong is said."""

import kdfast.functional as KF
from kdfast import self_check


def test_every_op_is_right_on_every_backend_that_runs():
    found = self_check.self_check()
    for name in KF.__all__:
        assert any(row["op"] == name and row["backend"] == "reference" for row in found), name
    assert [row for row in found if row["verdict"] != "right"] == []


def test_what_is_wrong_is_said(monkeypatch):
    plain, factors = KF.kl_div, iter((1.01, 1.0))

    def broken(*_, **__):
        raise OSError("no memory")

    monkeypatch.setattr(KF, "kl_div", lambda *given, **options: plain(*given, **options) * next(factors))
    monkeypatch.setattr(KF, "tv_dist", broken)
    assert self_check._verdict("kl_div", "cpu", "reference") == "wrong: relative error 1.0e-02"
    assert self_check._verdict("tv_dist", "cpu", "reference") == "failed: OSError: no memory"


def test_ops_without_a_kernel_are_left_out(monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("tv_dist has no native kernel for cpu tensors")

    monkeypatch.setattr(KF, "tv_dist", missing)
    assert self_check._verdict("tv_dist", "cpu", "native") is None
