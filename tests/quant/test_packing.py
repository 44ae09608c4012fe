"""Packing against a naive reference in strings of bits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mezzotint.quant.packing import pack, packed_size, unpack


def naive(codes: list[int], bits: int) -> bytes:
    """Write every bit by itself, the lowest first; eight of them are a byte."""
    stream = "".join(format(code, f"0{bits}b")[::-1] for code in codes)
    stream += "0" * (-len(stream) % 8)
    return bytes(int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8))


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=70))
def test_packing_equals_a_string_of_bits_and_is_undone(bits: int, values: list[int]) -> None:
    codes = [value % (1 << bits) for value in values]
    packed = pack(torch.tensor(codes, dtype=torch.int16), bits)
    assert packed.dtype == torch.uint8
    assert bytes(packed.numpy()) == naive(codes, bits)
    assert packed.numel() == packed_size(len(codes), bits) == -(-len(codes) * bits // 8)
    assert unpack(packed, bits, len(codes)).tolist() == codes


def test_a_million_codes_of_any_shape() -> None:
    codes = torch.from_numpy(
        np.random.default_rng(0).integers(0, 8, (64, 128, 11, 11), dtype=np.int16)
    )
    packed = pack(codes, 3)
    assert packed.numel() == codes.numel() * 3 // 8
    assert torch.equal(unpack(packed, 3, codes.numel()).reshape(codes.shape), codes)


@pytest.mark.parametrize("code", [-1, 8])
def test_a_code_that_does_not_fit_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match="must be 0 to 7 for 3 bits"):
        pack(torch.tensor([0, code, 7]), 3)


@pytest.mark.parametrize("bits", [0, 9])
def test_another_width_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="`bits` must be 1 to 8"):
        pack(torch.tensor([0]), bits)


def test_data_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="9 codes of 3 bits must be 4 bytes, got 2"):
        unpack(torch.zeros(2, dtype=torch.uint8), 3, 9)
