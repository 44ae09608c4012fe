"""Sources of text and tokens: files, tokenizers and embedded emails."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.data.tokens.embedded import Emails as Emails
    from mezzotint.data.tokens.tokens import Tokens as Tokens

__getattr__, __dir__ = lazy_names(__name__, __file__)
