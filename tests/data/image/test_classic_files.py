"""The pickles of CIFAR: plain data is read, and nothing else is ever called."""

import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mezzotint.data.image.classic_files import read_inert, read_pickled


class Payload:
    """Runs a call of its choice when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_unpickler_runs_nothing(protocol: int, tmp_path: Path) -> None:
    marker, file = tmp_path / "executed", tmp_path / "batch"
    command = f"touch '{marker}'"
    for payload in (
        Payload(os.system, command),
        Payload(eval, f"__import__('os').system({command!r})"),
        Payload(getattr, Path, "touch"),
        Payload(io.open, str(marker), "w"),
        Payload(np.load, str(marker)),
        Payload(torch.load, str(marker)),
    ):
        for content in (payload, {b"data": payload}, {b"labels": [payload]}):
            file.write_bytes(pickle.dumps(content, protocol=protocol))
            with pytest.raises(
                ValueError, match="batch`: it asks for .*which is not data. Expected"
            ):
                read_inert(str(file))
    assert not marker.exists()


def test_opcodes_cannot_reach_out_of_the_stand_ins(tmp_path: Path) -> None:
    """Dotted names, attributes set on a stand-in, and calls of what is no function."""
    file = tmp_path / "batch"
    for content in (
        b"\x80\x04\x8c\x05numpy\x8c\x0cdtype.__init__\x93.",
        b"\x80\x04\x8c\x07_codecs\x8c\x13encode.__globals__\x93.",
        b"cnumpy\nndarray\n(tR.",
        b"cnumpy\nndarray\n}S'x'\nI1\nsb.",
        b"c_codecs\nencode\n(S'a'\nS'utf-8'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"ios\nsystem\n(S'true'\ntR.",
        b"\x80\x02\x82\x01.",
        b"Pid\n.",
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="batch`: .*. Expected: "):
            read_inert(str(file))


def test_arrays_of_anything_but_bytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "batch"
    row = np.zeros((1, 3072), np.uint8)
    good = {b"data": row, b"labels": [1]}
    wrong: list[dict[bytes, Any]] = [
        {b"data": row.astype(np.int64), b"labels": [1]},
        {b"data": row.astype(object), b"labels": [1]},
        {b"data": np.asfortranarray(np.zeros((2, 3072), np.uint8)), b"labels": [1, 2]},
        {b"data": row[:, :-1], b"labels": [1]},
        {b"data": row, b"labels": [1, 2]},
        {b"data": row, b"labels": ["a"]},
        {b"data": row, b"labels": [10]},
        {b"data": row},
        {b"labels": [1]},
    ]
    file.write_bytes(pickle.dumps(good, protocol=2))
    assert read_pickled(str(file), b"labels", classes=10)[1].tolist() == [1]
    for content in wrong:
        file.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(ValueError, match="`: .*. Expected: "):
            read_pickled(str(file), b"labels", classes=10)


def test_a_shape_that_does_not_fit_its_bytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "batch"
    content = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1]}, protocol=2)
    assert content.count(b"K\x01M\x00\x0c\x86") == 1  # the shape (1, 3072)
    for shape in (b"K\x02M\x00\x0c\x86", b"K\x01J\xff\xff\xff\xff\x86"):
        file.write_bytes(content.replace(b"K\x01M\x00\x0c\x86", shape))
        with pytest.raises(ValueError, match="`: .*. Expected: "):
            read_pickled(str(file), b"labels", classes=10)


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """Opcodes written by hand as `cPickle` of Python 2.6 did: byte strings are `U`."""
    pixels = bytes(range(256)) * 12
    dtype = (
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86"
        + dtype
        + b"\x89T"
        + len(pixels).to_bytes(4, "little")
        + pixels
        + b"tb"
    )
    (tmp_path / "batch").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels]K\x07au.")
    images, labels = read_pickled(str(tmp_path / "batch"), b"labels", classes=10)
    assert images.shape == (1, 3, 32, 32) and images.tobytes() == pixels and labels.tolist() == [7]


def test_nothing_of_numpy_is_called_while_unpickling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1]}, protocol=2)
    (tmp_path / "batch").write_bytes(content)
    reached: list[str] = []
    monkeypatch.setattr(
        sys.modules["numpy._core.multiarray"], "_reconstruct", lambda *_: reached.append("called")
    )
    read_inert(str(tmp_path / "batch"))
    assert reached == []
