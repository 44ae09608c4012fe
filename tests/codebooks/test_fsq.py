"""FSQ: golden codes and the paper's grid."""

from mezzotint.codebooks import FSQ
from tests.codebooks.reference import X


def test_golden_codes_of_fsq() -> None:
    """vector-quantize-pytorch 1.32.0, `FSQ(levels=[8, 5, 5, 5])`."""
    expected = (
        "824 192 807 803 207 640 79 384 831 23 632 128 680 599 384 823 392 7 842 0 167 361 "
        "995 601 168 37 800 39 992 543 922 163 199 167 911 984 47 967 961 63 161 806 27 192 "
        "837 657 960 175 7 191 344 872 237 33 159 200 401 432 767 7 992 880 399 159"
    )
    codes = FSQ(levels=(8, 5, 5, 5))(3.0 * X[:, :4])
    assert codes.indices[:, 0].tolist() == [int(code) for code in expected.split()]
