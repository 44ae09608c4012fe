"""Sources of tables: files with one row for each sample."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.data.table.table import Table as Table
    from mezzotint.data.table.table import TableSample as TableSample

__getattr__, __dir__ = lazy_names(__name__, __file__)
