import json
import pickle

import numpy as np
import pyarrow as pa
import pytest

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.metrics.inputs import MetricValue, as_groups, as_labels, as_scores, group_codes, same_length


def test_a_value_is_a_float_with_a_reason() -> None:
    undefined = MetricValue.undefined("only negative labels")
    assert np.isnan(undefined)
    assert undefined.reason == "only negative labels"
    assert MetricValue(0.5).reason is None
    assert MetricValue(0.5) + 1 == 1.5
    assert json.dumps({"auc": MetricValue(0.5)}) == '{"auc": 0.5}'
    assert pickle.loads(pickle.dumps(undefined)).reason == undefined.reason


@pytest.mark.parametrize("values", [[0, 1, 1], [False, True, True], [0.0, 1.0, 1.0], np.array([0, 1, 1], np.int8)])
def test_labels_of_any_number_type_become_uint8(values: object) -> None:
    labels = as_labels(np.asarray(values))
    assert labels.dtype == np.uint8
    assert labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("bad", [2, -1, 0.5, np.nan, 256])
def test_a_wrong_label_is_named_with_its_row(bad: float) -> None:
    with pytest.raises(DataError, match=rf"label: expected 0 or 1, got {bad} at row 3 \(1 such rows\); derive"):
        as_labels([0, 1, 0, bad, 1])


def test_labels_of_another_shape_or_type_are_refused() -> None:
    with pytest.raises(DataError, match=r"label: expected one dimension, got shape \(1, 2\)"):
        as_labels([[0, 1]])
    with pytest.raises(DataError, match="label: expected numbers 0 and 1, got type <U3; map"):
        as_labels(["yes", "no"])


def test_a_nan_score_is_named_with_its_row() -> None:
    with pytest.raises(
        DataError, match=r"score: expected a number, got NaN at row 2 \(2 such rows\); the model diverged"
    ):
        as_scores([0.1, 0.2, np.nan, np.nan])


def test_scores_keep_their_width_and_may_be_infinite() -> None:
    assert as_scores(np.array([1, 2], np.float32)).dtype == np.float32
    assert as_scores(np.array([1, 2], np.float16)).dtype == np.float32
    assert as_scores([1, 2]).dtype == np.float64
    assert as_scores([np.inf, -np.inf]).tolist() == [np.inf, -np.inf]


def test_scores_that_are_not_what_their_kind_says_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected a probability in \[0, 1\], got 1.5 at row 1 .* say kind='logit'"):
        as_scores([0.5, 1.5], "probability")
    with pytest.raises(ConfigError, match="expected 'logit' or 'probability', got 'odds'"):
        as_scores([0.5], "odds")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="score: expected numbers, got type <U1"):
        as_scores(["a"])
    with pytest.raises(DataError, match=r"score: expected one dimension, got shape \(1, 1\)"):
        as_scores([[0.5]])


def test_unequal_lengths_are_listed() -> None:
    with pytest.raises(DataError, match="got label 3, score 2; pass one value per impression"):
        same_length(label=np.zeros(3), score=np.zeros(2))


_NAMES = ["b", "a", "b", "ü"]


@pytest.mark.parametrize(
    "group",
    [
        _NAMES,
        np.array(_NAMES),
        np.array(_NAMES, object),
        pa.array(_NAMES),
        pa.array(_NAMES).dictionary_encode(),
        pa.chunked_array([_NAMES[:1], _NAMES[1:]]),
        np.array([7, 3, 7, 9]),
        np.array([7, 3, 7, 9], np.uint8),
        np.array([-3, -1, -3, 5]),
        np.array([7, 3, 7, 9]) + 10**15,
        np.array([-(2**62), 0, -(2**62), 2**62]),
        np.array([2**63 + 7, 3, 2**63 + 7, 9], np.uint64),
    ],
)
def test_equal_ids_get_equal_codes(group: object) -> None:
    codes, num_codes = group_codes(as_groups(group))  # type: ignore[arg-type]
    assert codes[0] == codes[2]
    assert len(set(codes.tolist())) == 3
    assert codes.min() >= 0
    assert codes.max() < num_codes


def test_no_groups_have_no_codes() -> None:
    codes, num_codes = group_codes(as_groups([]))
    assert len(codes) == num_codes == 0


def test_groups_that_cannot_be_ids_are_refused() -> None:
    with pytest.raises(DataError, match=r"group: expected a user id, got null at row 1 \(1 such rows\)"):
        as_groups(pa.array(["a", None, "b"]))
    with pytest.raises(DataError, match="group: expected integers or strings, got double"):
        as_groups([0.5, 1.0])
    with pytest.raises(DataError, match="group: expected integers or strings, got a mixture"):
        as_groups(np.array([1, "a"], object))
    with pytest.raises(DataError, match=r"group: expected one dimension, got shape \(1, 2\)"):
        as_groups([[1, 2]])
