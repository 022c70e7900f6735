"""The tables: one file each, registered by being here."""

import importlib
import pkgutil

from gdetkd.reproduce.registry import TABLES, experiments_of, load_table

__all__ = ["TABLES", "experiments_of", "load_table"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
