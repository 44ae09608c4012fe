import importlib.util
from types import ModuleType

import pytest

from tests import ROOT

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        spec = importlib.util.spec_from_file_location(
            "make_embedded_emails", SCRIPTS / "make_embedded_emails.py"
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_a_mail_is_its_subject_and_own_words(script: ModuleType) -> None:
    email = (
        b"From: a@b.c\nX-Spam: yes\nSubject: [ILUG] Re: Caf\xc3\xa9 hours\n\n"
        b"On Monday, Ann wrote:\n> old words\nWrite to me@home.org or\n"
        b"see http://x.y/z?q now\n-----\n"
    )
    assert script.text_of(email) == "Caf hours: Write to @ or see ^ now"


def test_markup_and_scripts_are_left_out(script: ModuleType) -> None:
    page = b"<html><style>p {}</style><p>Buy&nbsp;<b>now</b><!-- no --></p></html>\n"
    assert script.text_of(b"Subject: Win\nContent-Type: text/html\n\n" + page) == "Win: Buy now"


def test_damaged_emails_give_no_text_instead_of_an_error(script: ModuleType) -> None:
    assert script.text_of(b"Content-Type: text/plain; charset=nonsense\n\nhello") in (
        ": ",
        ": hello",
    )
