"""TeacherCache: a row comes back under its own key and augmentation alone."""

from __future__ import annotations

import pytest
import torch
from teacher_outputs import logits

from kdfast.distill import TeacherCache


def test_a_view_is_never_served_for_another(tmp_path) -> None:
    with TeacherCache(tmp_path) as cache:
        cache.put([0, 1], logits(2), augmentation="none")
        cache.put([0, 1], logits(2, seed=1), augmentation="flip")
        with pytest.raises(KeyError, match="lacks 2 of 2 rows"):
            cache.get([0, 1], augmentation="crop")
        assert torch.equal(cache.get([0, 1], augmentation="flip"), logits(2, seed=1))
        assert torch.equal(cache.get([0, 1], augmentation=["flip", "none"])[1], logits(2)[1])
        with pytest.raises(TypeError, match="augmentation"):
            cache.get([0])
        with pytest.raises(TypeError, match="augmentation must hold"):
            cache.get([0], augmentation=None)


def test_keys_of_different_types_are_different(tmp_path) -> None:
    keys = [1, "1", (1,), (1, "1"), True, 1.5, 'quote"\n', "\u2028 \U0001f600"]
    with TeacherCache(tmp_path) as cache:
        cache.put(keys, torch.arange(8), augmentation=("crop", 3))
    cache = TeacherCache(tmp_path)
    for at, key in enumerate(keys):
        assert cache.get([key], augmentation=("crop", 3)).item() == at
    assert (1, ("crop", 3)) in cache and (2, ("crop", 3)) not in cache
    assert cache.missing([1, 2, 3], augmentation=("crop", 3)) == [1, 2]


def test_arrays_of_keys_and_random_views(tmp_path) -> None:
    cache = TeacherCache(tmp_path)
    ids, seeds = torch.tensor([5, 6, 7]), torch.tensor([10, 11, 12])
    cache.put(ids, logits(3), augmentation=seeds)
    assert torch.equal(cache.get(ids.flip(0).numpy(), augmentation=[12, 11, 10]), logits(3).flip(0))
    assert cache.missing(ids, augmentation=[10, 10, 12]) == [1]


def test_missing_rows_are_counted(tmp_path) -> None:
    cache = TeacherCache(tmp_path)
    cache.put(range(3), logits(3), augmentation="none")
    with pytest.raises(KeyError, match=r"lacks 7 of 10 rows.*\[3,\"none\"\], .*\.\.\."):
        cache.get(range(10), augmentation="none")


def test_the_first_row_of_a_key_stays(tmp_path) -> None:
    cache = TeacherCache(tmp_path)
    assert cache.put([0, 1, 0], torch.tensor([10, 11, 12]), augmentation="none") == 2
    cache.flush()
    assert cache.put([1, 2], torch.tensor([21, 22]), augmentation="none") == 1
    assert cache.get([0, 1, 2], augmentation="none").tolist() == [10, 11, 22]
    cache.flush()
    assert TeacherCache(tmp_path).get([0, 1, 2], augmentation="none").tolist() == [10, 11, 22]


def test_get_or_put(tmp_path) -> None:
    asked = []

    def compute(todo: list[int]) -> torch.Tensor:
        asked.append(todo)
        return logits(6)[todo]

    cache = TeacherCache(tmp_path, dtype=torch.float16)
    first = cache.get_or_put([0, 1, 2], compute, augmentation="none")
    second = cache.get_or_put([0, 1, 2], compute, augmentation="none")
    assert asked == [[0, 1, 2]] and torch.equal(first, second)
    cache.get_or_put([2, 5], lambda todo: logits(2)[todo], augmentation=["none", "flip"])
    assert len(cache) == 4 and cache.missing([2, 5], augmentation=["none", "flip"]) == []


def test_later_writes_to_the_given_tensor_do_not_reach_the_cache(tmp_path) -> None:
    cache = TeacherCache(tmp_path)
    values = torch.zeros(2, 3)
    cache.put([0, 1], values, augmentation="none")
    values.fill_(1)
    cache.get([0, 1], augmentation="none").fill_(2)
    assert not cache.get([0, 1], augmentation="none").any()
    cache.flush()
    cache.get([0, 1], augmentation="none").fill_(3)
    assert not cache.get([0, 1], augmentation="none").any()


def test_rows_of_different_shapes(tmp_path) -> None:
    with TeacherCache(tmp_path) as cache:
        cache.put([0, 1], torch.ones(2, 5), augmentation="none")
        cache.put([2], torch.ones(1, 7), augmentation="none")
    cache = TeacherCache(tmp_path)
    assert cache.get([2], augmentation="none").shape == (1, 7)
    with pytest.raises(ValueError, match="differ in shape"):
        cache.get([0, 2], augmentation="none")
