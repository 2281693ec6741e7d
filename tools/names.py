"""What a name in backticks means: the page that defines it, or nothing where it may mean several things.

nbdev links each name that a module defines, to the first module that does. But `peak` is a function
deep in the package and a method of every estimate, `n_components` a function of one module and a
parameter of twenty solvers. So a name without a dot leads to a page only

- if users import it by that name (from calibrain, its pictures or its explorers), to that one;
- or if one module defines it, and it is no parameter of a function, no member of a class and no
  part of the package besides.

Anything else a page has to link by hand, or to write with its class: `EvokedPosterior.peak`.
"""

import inspect
import types
from collections import defaultdict
from importlib import import_module

IMPORTED_FROM = ("calibrain", "calibrain.viz", "calibrain.explorers")


def defined(index):
    "Where each name is defined: name → module → page"
    found = defaultdict(dict)
    for module, names in index.items():
        for name, (page, _) in names.items():
            found[name.removeprefix(f"{module}.")][module] = page
    return found


def is_public(name):
    return not any(part.startswith("_") for part in name.split("."))


def imported():
    "What users import, and the module that defines it"
    found = {}
    for package in map(import_module, IMPORTED_FROM):
        for name in package.__all__:
            found[name] = getattr(getattr(package, name), "__module__", "")
    return found


def value_of(module, name):
    "What a module defines by a name, dotted or not"
    value = import_module(module)
    for part in name.split("."):
        value = inspect.getattr_static(value, part, None)
    return value


def parameters(value):
    "Names of the parameters of a function or a method, and of what a class is made of"
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if not isinstance(value, types.FunctionType | type):
        return set()
    try:
        return {*inspect.signature(value).parameters}
    except (TypeError, ValueError):  # a class that says nothing of it
        return set()


def members(value):
    "Fields and methods of a class"
    if not isinstance(value, type):
        return set()
    return {*vars(value), *inspect.get_annotations(value)}


def other_meanings(found):
    "Names that are a parameter, a member or a part of the package"
    others = set()
    for name, modules in found.items():
        for module in modules if is_public(name) else ():
            others.update(module.split(".")[1:-1])
            value = value_of(module, name)
            others |= parameters(value) | members(value)
    return others


def meant(index):
    "The page that each name leads to; `None` for a name that may mean several things"
    found = defined(index)
    others = other_meanings(found)
    by_import = imported()
    leads_to = {}
    for name, modules in found.items():
        if by_import.get(name) in modules:
            leads_to[name] = modules[by_import[name]]
        elif len(modules) > 1 or name in others:
            leads_to[name] = None
        else:
            (leads_to[name],) = modules.values()
    return leads_to


def mistaken(index):
    "The names that nbdev links to another page than the one that is meant, if one is"
    found = defined(index)
    first = {name: next(iter(modules.values())) for name, modules in found.items()}
    return {name: page for name, page in meant(index).items() if page != first[name]}
