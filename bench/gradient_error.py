"""The relative error of the gradient of KL(p || q) against float64, as the student approaches the teacher.

    python bench/gradient_error.py            # writes docs/gradient_error.csv and docs/gradient_error.svg

Student logits are the teacher's plus noise, rounded to the dtype. The truth is kl_div in float64 on the same
rounded logits, which the tests hold to vectors from 40-digit arithmetic.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import kdfast.functional as KF

DOCS = Path(__file__).resolve().parents[1] / "docs"
ROWS, CLASSES = 16, 8000
DISTANCES = [1.4, 0.45, 0.14, 0.045, 0.014, 4.5e-3, 1.4e-3, 4.5e-4, 1.4e-4]  # KL is about half the square


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    """What a training loop writes; log_softmax in the logits' own dtype."""
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def liger() -> Callable[[Tensor, Tensor], Tensor] | None:
    """Liger's kernel on log-probabilities, where it imports and runs."""
    try:
        from liger_kernel.transformers import LigerKLDIVLoss

        loss = LigerKLDIVLoss(reduction="batchmean", log_target=True)
        whole = lambda s, t: loss(s.log_softmax(-1), t.log_softmax(-1))  # noqa: E731
        x = torch.randn(2, 8, requires_grad=True)
        whole(x, x.detach()).backward()
    except Exception as error:
        print(f"Liger is left out: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
        return None
    return whole


def gradient(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    leaf = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, teacher), leaf)[0]


def rows() -> Iterator[dict[str, object]]:
    """One row of the table for each provider, dtype and distance."""
    providers = {"kdfast": KF.kl_div, "PyTorch": plain, "torch.compile": torch.compile(plain)}
    providers |= {} if (other := liger()) is None else {"Liger": other}
    generator = torch.Generator().manual_seed(0)
    base, noise = (torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2))
    for dtype in (torch.float32, torch.bfloat16):
        for distance in DISTANCES:
            student, teacher = (base + distance * noise).to(dtype), base.to(dtype)
            value = KF.kl_div(student.double(), teacher.double()).item()
            if value < 1e-9:
                continue  # bfloat16 rounds both to the same logits
            truth = gradient(KF.kl_div, student.double(), teacher.double())
            for name, loss in providers.items():
                found = gradient(loss, student, teacher).double()
                error = ((found - truth).norm() / truth.norm()).item()
                yield {
                    "provider": name,
                    "dtype": str(dtype)[6:],
                    "kl": f"{value:.3e}",
                    "error": f"{error:.3e}",
                }


def plot(table: list[dict[str, object]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kdfast"
    from matplotlib import pyplot as plt

    dtypes = sorted({str(row["dtype"]) for row in table}, reverse=True)
    figure, axes = plt.subplots(1, len(dtypes), figsize=(10, 4), sharey=True)
    for axis, dtype in zip(axes, dtypes, strict=True):
        names = dict.fromkeys(str(row["provider"]) for row in table)
        for name, style in zip(
            names, ("o-", "s-", "^--", "x:"), strict=False
        ):  # lines may lie on one another
            points = [row for row in table if row["provider"] == name and row["dtype"] == dtype]
            kl, error = ([float(p[key]) for p in points] for key in ("kl", "error"))
            axis.loglog(kl, error, style, label=name, markerfacecolor="none")
        axis.invert_xaxis()
        axis.set(title=dtype, xlabel="KL(p || q) of a row")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative L2 error of the gradient")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(DOCS / "gradient_error.svg", metadata={"Date": None})


def main() -> None:
    table = list(rows())
    DOCS.mkdir(exist_ok=True)
    with (DOCS / "gradient_error.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    plot(table)


if __name__ == "__main__":
    main()
