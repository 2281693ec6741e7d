"What every wing stands on: checks, units, warnings, files"

from functools import partial

from .moved import old_name

__getattr__ = partial(old_name, "core")
