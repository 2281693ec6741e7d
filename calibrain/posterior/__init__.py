"What is known of the sources, and how well"

from functools import partial

from ..core.moved import old_name

__getattr__ = partial(old_name, "posterior")
