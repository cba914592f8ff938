"""`python -m kdfast --check`: every op is computed and right, and what is wrong is said."""

import kdfast.functional as KF
from kdfast import self_check
from kdfast.ops import kl_div, tv_dist


def test_every_op_is_right_on_every_backend_that_runs():
    found = self_check.self_check()
    computed = {row["op"] for row in found if row["backend"] == "reference"}
    assert computed == set(KF.__all__) - {"box_weights"}
    assert [row for row in found if row["verdict"] != "right"] == []


def test_what_is_wrong_is_said(monkeypatch):
    def broken(*_, **__):
        raise OSError("no memory")

    plain = kl_div.kl_div
    monkeypatch.setattr(kl_div, "kl_div", lambda *given, **options: plain(*given, **options) * 1.01)
    monkeypatch.setattr(tv_dist, "tv_dist", broken)
    assert self_check._verdict("kl_div", "cpu", "reference") == "wrong: relative error 1.0e-02"
    assert self_check._verdict("tv_dist", "cpu", "reference") == "failed: OSError: no memory"


def test_ops_without_a_kernel_are_left_out(monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("tv_dist has no native kernel for cpu tensors")

    monkeypatch.setattr(tv_dist, "tv_dist", missing)
    assert self_check._verdict("tv_dist", "cpu", "native") is None
