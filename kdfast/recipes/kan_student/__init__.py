"""Distillation of a gradient-boosted or MLP teacher into a small Kolmogorov-Arnold network, on tables.

    loss = (1 - alpha) task(s, y) + alpha T^2 KL(softmax(t / T) || softmax(s / T))      classification
    loss = (1 - alpha) (s - y)^2 + alpha (s - t)^2                                      regression

s: the student's outputs, t: the teacher's, y: the target. What the teacher says of a training row comes from
a copy that was fitted without the row's fold: boosted trees are all but certain about rows that they were
grown on, which would leave nothing to learn from.

    teachers   boosted trees, an MLP; out-of-fold outputs
    student    the network, its losses, its training
"""

from kdfast.recipes.kan_student.recipe import Options, run
from kdfast.recipes.kan_student.student import TableStudent, student_network
from kdfast.recipes.kan_student.teachers import make_teacher, out_of_fold, outputs

__all__ = ["Options", "TableStudent", "make_teacher", "out_of_fold", "outputs", "run", "student_network"]
