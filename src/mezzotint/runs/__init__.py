"""What is done with a finished run: evaluate, embed, fine-tune, compare, study."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.runs.settings import Budget as Budget
    from mezzotint.runs.settings import Evaluate as Evaluate
    from mezzotint.runs.settings import Export as Export

__getattr__, __dir__ = lazy_names(__name__, __file__)
