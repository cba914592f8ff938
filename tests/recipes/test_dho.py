"""DHO: loss, heads and inference against the equations and the published vectors."""

import math

import pytest
import torch
import torch.nn.functional as F
from waves import close, wave

from kdfast.recipes import dho

Y = torch.tensor([1, 3])


def logits():
    return wave((5, 4), 3, 0), wave((5, 4), 4, 0.5), wave((5, 4), 10, 1)


def three_terms(a, b, t, y, temperature=2.0):
    """The equations with torch's own losses: L_CE, L_KDl, L_KDu."""
    n, (q, p) = len(y), ((x / temperature).log_softmax(-1) for x in (b, t))
    kl = [F.kl_div(q[r], p[r], reduction="batchmean", log_target=True) for r in (slice(n), slice(n, None))]
    return F.cross_entropy(a[:n], y), temperature**2 * kl[0], temperature**2 * kl[1]


CASES = [
    ({"n_labeled": 2}, Y, 1.900860832, 0.3812512821, 1.553208555),
    ({"n_labeled": 2, "weights": (1, 1)}, Y, 3.801721665, 0.7625025642, 3.10641711),
    ({"n_labeled": 2, "lam": 0.25}, Y, 2.604835864, 0.1906256411, 2.329812832),
    ({"n_labeled": 2, "reduction": "mean"}, Y, 1.104014664, 0.3812512821, 0.7973155909),
    ({"n_labeled": 0}, Y[:0], 0.8575592791, 0, 0.7973155909),
    ({"n_labeled": 5}, torch.tensor([1, 3, 0, 2, 1]), 1.624799175, 0.5280679303, 0.7973155909),
]


@pytest.mark.parametrize(("options", "y", "loss", "grad_a", "grad_b"), CASES)
def test_loss_vectors(options, y, loss, grad_a, grad_b):
    a, b, t = (x.requires_grad_() for x in logits())
    value, _ = dho.dho_loss(a, b, t, y, **options)
    value.backward()
    close(value, loss)
    close(a.grad.abs().sum(), grad_a)
    close(b.grad.abs().sum(), grad_b)
    assert t.grad is None


def test_terms_and_gradients():
    a, b, t = logits()
    a.requires_grad_(), b.requires_grad_()
    target = torch.tensor([1, 3, -100, -100, -100])
    loss, terms = dho.dho_loss(a, b, t, target)
    close([terms["ce"], terms["kd_labeled"], terms["kd_unlabeled"]], [0.4929107701, 1.350839893, 1.957971002])
    assert not any(term.requires_grad for term in terms.values())
    close(loss, 0.5 * sum(three_terms(a, b, t, Y)), 1e-12)
    loss.backward()
    close(a.grad[0], [0.1061003518, -0.1199570622, 0.01297899694, 0.0008777134728])
    assert not a.grad[2:].any(), "unlabelled rows give the supervised head nothing"
    close(b.grad[0], [-0.1640005363, 0.1359581822, 0.02182146345, 0.006220890702])
    close(b.grad[2], [0.1351195516, 0.02729152853, 0.02505555212, -0.1874666322])


def test_three_ways_to_say_what_is_labelled():
    a, b, t = logits()
    mask = torch.tensor([True, True, False, False, False])
    by_count, _ = dho.dho_loss(a, b, t, Y, n_labeled=2)
    by_mask, _ = dho.dho_loss(a, b, t, torch.tensor([1, 3, 2, 0, 1]), labeled_mask=mask)
    assert by_count == by_mask
    shuffled = torch.tensor([4, 0, 3, 1, 2])
    target = torch.tensor([1, 3, -100, -100, -100])
    anywhere, _ = dho.dho_loss(a[shuffled], b[shuffled], t[shuffled], target[shuffled])
    close(anywhere, by_count, 1e-12)


def test_gradcheck():
    a, b, t = logits()
    inputs = (a.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: dho.dho_loss(a, b, t, Y, n_labeled=2)[0], inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_counts_in_float32(dtype):
    torch.manual_seed(0)
    a, b, t = (10 * torch.randn(32, 100) for _ in range(3))
    a, b, t = (x.to(dtype) for x in (a, b, t))
    value, _ = dho.dho_loss(a, b, t, torch.arange(16), n_labeled=16)
    wanted = 0.5 * sum(three_terms(a.double(), b.double(), t.double(), torch.arange(16)))
    assert value.dtype == torch.float32
    close(value, wanted, 1e-5)


@pytest.mark.parametrize(
    ("t", "b", "temperature", "kl", "grad"),
    [
        ((1000, 0, -1000), (0, 0, 0), 1, 1.098612289, None),
        ((1000, 0, -1000), (0, 0, 0), 2, 4.394449155, None),
        ((1, 2, -math.inf), (0, 0, 0), 1, 0.5164091798, None),
        ((1, 2, -math.inf), (0, 0, 0), 2, 1.74305988, None),
        ((1, 2, -math.inf), (0.5, -0.25, -math.inf), 1, 0.3529618312, (0.4102372778, -0.4102372778, 0)),
        ((3, 1, 2), (3, 1, 2), 2, 0, (0, 0, 0)),
    ],
)
def test_edge_cases(t, b, temperature, kl, grad):
    t, b = (torch.tensor([x], dtype=torch.float64) for x in (t, b))
    a = torch.zeros_like(b)
    b.requires_grad_()
    loss, _ = dho.dho_loss(a, b, t, Y[:0], n_labeled=0, lam=0, temperature=temperature)
    close(loss, kl)
    loss.backward()
    assert b.grad.isfinite().all()
    if grad is not None:
        close(b.grad[0], grad)


def test_lam_gives_one_head_everything():
    head = dho.DualHead(6, 4).double()
    for lam, silent in ((1.0, head.kd_head), (0.0, head.ce_head)):
        head.zero_grad()
        a, b = head(wave((5, 6), 1.5, 0.2))
        dho.dho_loss(a, b, wave((5, 4), 10, 1), Y, n_labeled=2, lam=lam)[0].backward()
        assert not silent.weight.grad.any()


HEADS = [
    (False, 4.124311297, 3.773993084, 4.589162594, 0.8727827583, 4.782093957, 0.8371969005,
     (0.02065575241, 0.08164154797, 0.06756648083), (-0.4348247135, -0.43086349, -0.03076836081)),
    (True, 7.599204333, 22.73687939, 15.80805227, 22.83835934, 427.5465946, 192.4914315,
     (-1.011585634, 1.444845326, 2.572892157), (-30.2865971, -37.12333545, -9.829050392)),
]  # fmt: skip


@pytest.mark.parametrize(("align", "kdl", "kdu", "loss", "gz", "gw", "gb", "dz", "dw"), HEADS)
def test_head_vectors(align, kdl, kdu, loss, gz, gw, gb, dz, dw):
    head = dho.DualHead(6, 4, align_kd=align).double()
    values = {
        "ce_head.weight": wave((4, 6), 0.5, 2.1),
        "ce_head.bias": wave((4,), 0.1, 0.4),
        "kd_head.weight": wave((4, 6), 0.3, 0.7),
        "kd_head.bias": wave((4,), 0.02, 1.3),
    }
    head.load_state_dict(values)
    z = wave((5, 6), 1.5, 0.2).requires_grad_()
    a, b = head(z)
    if align:
        close(b[0], [46.41772919, 50.49226743, 50.80955005, 48.61804801])
    value, terms = dho.dho_loss(a, b, wave((5, 4), 10, 1), Y, n_labeled=2)
    value.backward()
    close(
        [value.detach(), terms["ce"], terms["kd_labeled"], terms["kd_unlabeled"]],
        [loss, 1.280020806, kdl, kdu],
    )
    close(z.grad.abs().sum(), gz)
    close(z.grad.flatten()[:3], dz)
    kd, ce = head.kd_head, head.ce_head
    close([kd.weight.grad.abs().sum(), kd.bias.grad.abs().sum()], [gw, gb])
    close(kd.weight.grad.flatten()[:3], dw)
    close([ce.weight.grad.abs().sum(), ce.bias.grad.abs().sum()], [2.167666123, 0.3607613434])
    close(ce.weight.grad.flatten()[:3], [0.05674341506, 0.0576153543, 0.005516002506])


def test_heads_start_from_text():
    text = torch.randn(4, 6)
    head = dho.DualHead(6, 4, init_text=text)
    for linear in (head.ce_head, head.kd_head):
        assert torch.equal(linear.weight, text) and not linear.bias.any()
    with pytest.raises(ValueError, match=r"init_text must have shape .*\[4, 6\], got \[4, 5\]"):
        dho.DualHead(6, 4, init_text=torch.randn(4, 5))


PREDICTIONS = [
    (0.5, 0.5, (0.692460618, 0.2798159622, 0.02596792682, 0.001755492944), 2.988568596, (0, 2, 0, 1, 3)),
    (0.4, 0.5, (0.7460724602, 0.2317448044, 0.02077831463, 0.001404420755), 3.049076304, (0, 2, 0, 1, 3)),
    (0.3, 2.0, (0.5827830047, 0.3611044024, 0.04628998075, 0.009822612058), 2.276707143, (0, 3, 0, 1, 3)),
    (0.0, 1.0, (0.8280848611, 0.1678422027, 0.003765959896, 0.000306976286), 2.885251796, (0, 2, 3, 1, 3)),
    (1.0, 7.0, (0.424401407, 0.5201717513, 0.05191598775, 0.003510853891), 3.121437457, (1, 3, 0, 1, 3)),
]


@pytest.mark.parametrize(("alpha", "beta", "first", "squares", "guesses"), PREDICTIONS)
def test_prediction_vectors(alpha, beta, first, squares, guesses):
    a, b, _ = logits()
    p = dho.dho_predict(a, b, alpha, beta)
    close(p[0], first)
    close(p.square().sum(), squares)
    assert p.argmax(-1).tolist() == list(guesses)
    close(p.sum(-1), torch.ones(5))


def test_search_takes_the_first_of_the_best():
    y = [int(c) for c in "023130130230231301302302313013"]
    a, b, y = wave((30, 4), 1.5, 0), wave((30, 4), 2.5, 0.9), torch.tensor(y)
    assert dho.search_alpha_beta(a, b, y) == (0.5, 1.25, 1.0)
    assert dho.search_alpha_beta(a, b, y, (0.0,), (1.0,))[2] == pytest.approx(0.8)
    assert dho.search_alpha_beta(a, b, y, (1.0,), (1.0,))[2] == pytest.approx(0.6)
    best = (0.0, 0.0, -1.0)
    for beta in dho.BETAS:
        for alpha in dho.ALPHAS:
            score = (dho.dho_predict(a, b, alpha, beta).argmax(-1) == y).double().mean().item()
            if score > best[2]:
                best = (alpha, beta, score)
    assert dho.search_alpha_beta(a, b, y) == best and dho.ALPHAS[-1] == 1.0 and len(dho.ALPHAS) == 21


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lam": 1.5}, ValueError, r"lam must be in \[0, 1\], got 1.5"),
        ({"reduction": "sum"}, ValueError, 'reduction must be "code" or "mean"'),
        ({"labeled_mask": torch.ones(3, dtype=torch.bool)}, ValueError, r"labeled_mask must be bool \[5\]"),
        ({"n_labeled": 9}, ValueError, "n_labeled must be at most the 5 rows"),
        ({"temperature": 0}, ValueError, "temperature"),
    ],
)
def test_bad_loss_options(change, error, message):
    a, b, t = logits()
    with pytest.raises(error, match=message):
        dho.dho_loss(a, b, t, torch.zeros(5, dtype=torch.int64), **change)


def test_bad_shapes():
    a, b, t = logits()
    with pytest.raises(ValueError, match=r"teacher must have the shape of ce_logits, \[5, 4\], got \[5, 3\]"):
        dho.dho_loss(a, b, t[:, :3], Y, n_labeled=2)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\] and beta above 0"):
        dho.dho_predict(a, b, 0.5, 0)
