"""Recipe, loop, checkpoint, guard, log."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.train.init import Init as Init
    from mezzotint.train.settings import Checkpoints as Checkpoints
    from mezzotint.train.settings import Compute as Compute
    from mezzotint.train.settings import Guard as Guard
    from mezzotint.train.settings import Loader as Loader
    from mezzotint.train.settings import Log as Log
    from mezzotint.train.settings import Run as Run

__getattr__, __dir__ = lazy_names(__name__, __file__)
