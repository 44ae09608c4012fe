"""Samples that belong together: by content, by conventions of names, by columns."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzotint.data.listing.groups import (
    check_pattern,
    column_of_groups,
    grouped,
    independent,
    merged,
    same_files,
    same_rows,
    source_of,
)


@pytest.mark.parametrize(
    ("path", "label", "source"),
    [
        ("patient00012/study1/view1.png", None, "patient00012"),
        ("benign/patient_7/1.png", "benign", "patient_7"),
        ("malign/patient_7/1.png", "malign", "patient_7"),
        ("sub-01/anat/1.png", None, "sub-01"),
        ("subject1/1.png", "subject1", None),  # the class itself
        ("walk/recording3/1.png", "walk", "recording3/walk"),
        ("yes/0a7c2a8d_nohash_0.wav", "yes", "0a7c2a8d"),
        ("Archery/v_Archery_g08_c01.avi", "Archery", "v_Archery_g08"),
        ("--_cP4W5kNI_000012_000022.mp4", "yoga", "--_cP4W5kNI"),
        ("fall/session1/recording3/1.png", "fall", "session1/fall"),
        ("street/drive2_frame0012.png", "street", "street/drive2"),
        ("cat/patient3_left.png", "cat", "patient3"),
        ("cat/1.png", "cat", None),
        ("cat/deeper/2.png", "cat", None),
    ],
)
def test_conventions_of_names(path: str, label: str | None, source: str | None) -> None:
    assert source_of(path, label) == source


def test_a_pattern_replaces_the_conventions() -> None:
    assert source_of("cat/patient3/x7-2.png", "cat", r"x(\d+)") == "7"
    assert source_of("cat/patient3/x7-2.png", "cat", r"x\d+") == "x7"
    assert source_of("cat/patient3/x7-2.png", "cat", "") is None
    assert source_of("cat/patient3/x7-2.png", "cat", "z") is None
    check_pattern(r"x\d+")
    with pytest.raises(ValueError, match=r"`group` must be a regular expression.*got '\('"):
        check_pattern("(")


def test_columns_that_name_people() -> None:
    assert column_of_groups(["x", "Patient ID", "subject"]) == "Patient ID"
    assert column_of_groups(["x", "subject_id"]) == "subject_id"
    assert column_of_groups(["x", "patients", "label"]) is None  # a count
    assert column_of_groups(["x", "patients", "label"], arrays=True) == "patients"
    assert column_of_groups(["x", "user_id"]) == "user_id" and column_of_groups(["user"]) is None


def test_groups_are_numbered_by_their_first_sample() -> None:
    assert grouped(["a", None, "b", "a", None, "b"]).tolist() == [0, 1, 2, 0, 4, 2]
    assert merged(np.array([0, 1, 1, 3]), np.array([0, 1, 2, 2])).tolist() == [0, 1, 1, 1]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_merged_groups_are_the_connected_ones(pairs: list[tuple[int, int]]) -> None:
    one, two = (grouped([str(pair[k]) for pair in pairs]) for k in (0, 1))
    together = np.eye(len(pairs), dtype=bool)
    for groups in (one, two):
        together |= groups[:, None] == groups
    for _ in pairs:
        together = together @ together
    expected = [int(row.argmax()) for row in together]
    assert (merged(one, two).tolist() if pairs else []) == expected


def test_equal_rows_and_equal_files(tmp_path: Path) -> None:
    rows = np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]])
    assert same_rows(rows).tolist() == [0, 1, 0]
    big = bytes(20_000)
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": big, "e": big,
                "f": big[:10_000] + b"x" + big[10_001:]}  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = [*contents, "gone", "gone too", "a", "./b"]
    assert same_files(str(tmp_path), names).tolist() == [0, 1, 0, 3, 3, 5, 6, 7, 0, 1]


def test_groups_that_nobody_named_give_way_to_a_task() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    content = np.array([0, 0, 2, 3, 4, 5])
    sources = ["s", "s", "s", "t", "t", "u"]  # the first class has a single source
    assert independent(labels, content, sources).tolist() == content.tolist()
    assert independent(labels, content, sources, required=True).tolist() == [0, 0, 0, 3, 3, 5]
    assert independent(labels, content, ["s", "s", "r", "t", "t", "u"]).tolist() == [
        0, 0, 2, 3, 3, 5,
    ]  # fmt: skip
