"""The embedded emails and their tasks."""

import numpy as np
import pytest

from mezzotint.data.tokens.embedded import Emails


def test_emails() -> None:
    emails = Emails()
    everything, (whole, few) = emails.evaluation()
    assert everything is emails and len(emails) == 2544 and int(emails.labels.sum()) == 1044
    assert np.bincount(few.labels[few.train]).tolist() == [50, 50] and set(few.train) <= set(
        whole.train
    )
    assert not set(whole.train) & set(whole.test) and abs(len(whole.test) / 2544 - 0.3) < 0.01
    texts = [emails.text(x) for x in emails.images[:200]]
    assert (
        all(text.isascii() and text.isprintable() for text in texts)
        and len({t[:60] for t in texts}) == 200
    )
    with pytest.raises(ValueError, match="must be 16 to 482, the longest email, got 8"):
        Emails(length=8)
