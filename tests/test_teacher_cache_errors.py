"""TeacherCache: a cache of something else, impossible settings and bad rows are refused."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from kdfast.distill import TeacherCache, TopK
from kdfast.distill.cache_settings import fingerprint


@pytest.mark.parametrize(
    "option, other",
    [
        ("teacher", "b"),
        ("temperature", 2.0),
        ("top_k", 5),
        ("dtype", torch.float32),
        ("teacher", nn.Linear(2, 2)),
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path, option, other) -> None:
    options = {"teacher": "a", "temperature": 4.0, "top_k": 3, "dtype": torch.float16}
    TeacherCache(tmp_path, **options)
    TeacherCache(tmp_path, **options)
    TeacherCache(tmp_path)
    with pytest.raises(ValueError, match=f"was written with {option}=.* was given"):
        TeacherCache(tmp_path, **{**options, option: other})


def test_teachers_are_told_apart_by_their_weights(tmp_path) -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    TeacherCache(tmp_path, teacher=one)
    with pytest.raises(ValueError, match="teacher='Linear@sha256"):
        TeacherCache(tmp_path, teacher=two)
    two.load_state_dict(one.state_dict())
    assert TeacherCache(tmp_path, teacher=two).teacher == fingerprint(one)
    assert fingerprint(one) != fingerprint(nn.Linear(3, 3).bfloat16())
    with pytest.raises(ValueError):
        TeacherCache(tmp_path, teacher=two.bfloat16())


def test_an_unnamed_teacher_is_not_taken_for_a_named_one(tmp_path) -> None:
    TeacherCache(tmp_path)
    with pytest.raises(ValueError, match="teacher=None"):
        TeacherCache(tmp_path, teacher="a")


@pytest.mark.parametrize(
    "options, error",
    [
        ({"top_k": 0}, ValueError),
        ({"top_k": 2.0}, ValueError),
        ({"temperature": 2.0}, ValueError),
        ({"top_k": 2, "temperature": 0.0}, ValueError),
        ({"top_k": 2, "temperature": float("nan")}, ValueError),
        ({"dtype": torch.int8}, TypeError),
        ({"teacher": 3}, TypeError),
        ({"shard_bytes": 0}, ValueError),
        ({"shard_bytes": "64M"}, TypeError),
    ],
)
def test_impossible_settings(tmp_path, options, error) -> None:
    with pytest.raises(error):
        TeacherCache(tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()


def test_folders_that_are_not_caches(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a TeacherCache"):
        TeacherCache(tmp_path)
    for text in ("{", "[]", json.dumps({"format": "other", "version": 1})):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json"):
            TeacherCache(tmp_path)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ((range(3), torch.zeros(2, 4)), ValueError),
        ((range(2), torch.tensor(1.0)), ValueError),
        (("ab", torch.zeros(2, 4)), TypeError),
        ((5, torch.zeros(2, 4)), TypeError),
        (([0, object()], torch.zeros(2, 4)), TypeError),
        ((range(2), [0, 1]), TypeError),
        ((range(2), {}), TypeError),
    ],
)
def test_bad_puts(tmp_path, arguments, error) -> None:
    with pytest.raises(error):
        TeacherCache(tmp_path).put(*arguments, augmentation="none")


@pytest.mark.parametrize(
    "outputs, error",
    [
        (torch.zeros(2, 2), ValueError),
        (torch.zeros(2, 9, dtype=torch.int64), TypeError),
        ({"logits": torch.zeros(2, 9)}, TypeError),
        (TopK(torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64)), ValueError),
    ],
)
def test_bad_top_k_puts(tmp_path, outputs, error) -> None:
    with pytest.raises(error):
        TeacherCache(tmp_path, top_k=3).put([0, 1], outputs, augmentation="none")


def test_an_augmentation_list_of_the_wrong_length(tmp_path) -> None:
    with pytest.raises(ValueError, match="augmentation is a list of 3 for 2 keys"):
        TeacherCache(tmp_path).put([0, 1], torch.zeros(2), augmentation=["a", "b", "c"])
