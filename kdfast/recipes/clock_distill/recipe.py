"""The run: a teacher, and for every seed a student alone and the same one distilled."""

from __future__ import annotations

from functools import partial
from typing import Any

import kdfast
from kdfast.recipes.clock_distill import plain
from kdfast.recipes.clock_distill.detector import DetrDetection, DetrDetector, distiller, labels_of
from kdfast.recipes.clock_distill.losses import ConsistentLogitDistillation, MemoryDistillation
from kdfast.recipes.clock_distill.models import build_detr, label_embedding_of, parts
from kdfast.recipes.clock_distill.options import Options
from kdfast.recipes.clock_distill.queries import TargetQueries
from kdfast.recipes.clock_distill.report import write_report
from kdfast.recipes.common.dense.detection import DetectionData, detection_data
from kdfast.recipes.common.dense.detection_set import collate
from kdfast.recipes.common.dense.inherit import inherit
from kdfast.recipes.common.dense.metrics import evaluate_detector
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.share import measure_share
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.weights import save_weights

CLIP = 0.1  # of the gradient's norm, as in DETR


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (of the first seed) and report.html."""
    data = _data(options)
    for sentence in data.findings:
        say(sentence)
    train = partial(_train, options, out, data)
    scores: dict[str, list[dict[str, float]]] = {"teacher": [], "student": [], "distilled": []}
    first: dict[str, DetrDetector] = {}  # the networks of the first seed

    def test(name: str, stage: str, network: DetrDetector) -> None:
        network.to(options.torch_device())
        result = out.result(f"{stage}-test", lambda: evaluate_detector(network, data.test, data.classes))
        scores[name].append(result)
        first.setdefault(name, network)
        say(f"{stage:<14} test AP {result['AP']:.3f}, AP50 {result['AP50']:.3f}")

    test("teacher", "teacher", train("teacher", options.seed).network)
    for seed in options.seed_list():
        if options.baseline:
            test("student", f"student-{seed}", train(f"student-{seed}", seed, first["teacher"]).network)
        trained = train(f"distilled-{seed}", seed, first["teacher"], distil=True)
        test("distilled", f"distilled-{seed}", trained.network.export_student())
    facts = {"recipe": "clock_distill", "architecture": options.architecture, "data": data.source}
    facts |= {"backbone": options.student_backbone, "dim": options.dim, "classes": ", ".join(data.classes)}
    save_weights(out, "student.safetensors", first["distilled"].model.detr, facts)
    share = out.result("loss-share", lambda: _share(options, data, trained))
    write_report(options, out, data, scores, share, first)


def _data(options: Options) -> DetectionData:
    return detection_data(
        options.data,
        options.data_root,
        short_side=options.short_side,
        long_side=options.long_side,
        classes=tuple(options.classes),
        skip_bad=options.skip_bad,
        cache=options.cache,
    )


def _detector(options: Options, classes: int, *, teacher: bool) -> DetrDetector:
    detr = build_detr(
        options.architecture,
        classes,
        backbone=options.teacher_backbone if teacher else options.student_backbone,
        weights=options.teacher_weights if teacher else options.student_weights,
        dim=options.dim,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers,
        queries=options.queries,
        denoising=options.denoising,
    )
    return DetrDetector(detr)


def _train(
    options: Options,
    out: RunFolder,
    data: DetectionData,
    stage: str,
    seed: int,
    parent: DetrDetector | None = None,
    *,
    distil: bool = False,
) -> DetrDetection:
    """Train the teacher, or a student of `parent`: alone, or distilled."""
    is_teacher, classes = stage == "teacher", len(data.classes)
    rates = {"lr": options.lr, "weight_decay": options.weight_decay}
    rates["backbone_lr"] = options.teacher_backbone_lr if is_teacher else options.backbone_lr

    def build() -> DetrDetection:
        network = _detector(options, classes, teacher=is_teacher)
        if options.inherit and not is_teacher:
            student, teacher = network.model.detr, parent.model.detr
            inherit(student, teacher, parts(student))
        if not distil:
            return DetrDetection(network, role="teacher" if is_teacher else "student", **rates)
        queries = _queries(options, classes, parent)
        return DetrDetection(_distiller(options, network, parent), queries=queries, **rates)

    batches = EpochData(
        data.train, data.validation, batch_size=options.batch_size, workers=options.workers, collate=collate
    )
    return train_stage(
        out,
        stage,
        build,
        batches,
        options,
        epochs=options.teacher_epochs if is_teacher else options.epochs,
        seed=seed,
        draws="teacher" if is_teacher else "student",  # alone and distilled start and see the same
        trainer_options={"gradient_clip_val": CLIP},
    )


def _distiller(options: Options, student: DetrDetector, teacher: DetrDetector) -> kdfast.Distiller:
    memory = MemoryDistillation(
        alpha=options.alpha, beta=options.beta, channels=options.channels, fgd_compat=options.fgd_compat
    )
    logits = ConsistentLogitDistillation(temperature=options.temperature, form=options.class_loss)
    return distiller(
        student,
        teacher,
        memory,
        logits,
        memory_weight=options.memory_weight,
        logit_weight=options.logit_weight,
    )


def _queries(options: Options, classes: int, teacher: DetrDetector) -> TargetQueries:
    known = label_embedding_of(teacher.model.detr) if options.content == "teacher" else None
    return TargetQueries(classes, options.dim, copies=options.copies, label_embedding=known)


def _share(options: Options, data: DetectionData, trained: DetrDetection) -> dict[str, Any]:
    device = options.torch_device()
    images, targets = collate([data.train[i] for i in range(min(options.batch_size, len(data.train)))])
    labels = labels_of([{k: v.to(device) for k, v in target.items()} for target in targets])
    module = trained.to(device).train()
    inputs = module.call([image.to(device) for image in images], labels)
    forms = {"lcmd": plain.memory, "tcld": plain.logits}
    return measure_share(module.network, inputs, labels, forms, rounds=10)
