"""A user's own metric: a Python function named as `module:function` or `path/file.py:function`.

The function takes the reply text and the `Item` and returns a number from 0 (wrong) to 1 (right).
It is called for answers that came and were not refused; everything else scores 0.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.items import Item
from stillhouse.parity.scores import Answered, Measure

Score = Callable[[str, Item], float]


def load_measure(name: str) -> Measure:
    """The metric behind `module:function`. Raises InputError saying what is missing where."""
    function = load_function(name)

    def values(sheet: Answered) -> NDArray[np.float64]:
        pairs = zip(sheet.items, sheet.outcomes, strict=True)
        replied = ("answered", "unparsed")
        scores = [
            _call(function, name, outcome.shown, item) if outcome.status in replied else 0.0
            for item, outcome in pairs
        ]
        return np.array(scores)[:, None]

    summary = (function.__doc__ or "The user's function.").strip().partition("\n")[0]
    return Measure(
        name="function",
        title=name.rpartition(":")[2].replace("_", " "),
        definition=f"{summary} Refusals, failures and absent answers score 0.",
        kinds=("label", "text", "json"),
        values=values,
    )


def load_function(name: str) -> Callable[..., Any]:
    """Import a function by `module:function` or `path/file.py:function`.

    This runs the user's code with the user's rights. Raises InputError.
    """
    source, separator, attribute = name.rpartition(":")
    if not separator or not source or not attribute:
        raise InputError(
            f"{name!r} does not name a function",
            repair="write `module:function` or `path/to/file.py:function`",
        )
    module = _import_file(Path(source), name) if source.endswith(".py") else _import(source, name)
    function = getattr(module, attribute, None)
    if not callable(function):
        offered = sorted(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
        raise InputError(
            f"{source} has no function {attribute!r}",
            place=name,
            repair=f"it has {', '.join(offered)}" if offered else "define it there",
        )
    return function  # type: ignore[no-any-return]


def beside(name: str, folder: Path) -> str:
    """The same function, by its file where that lies in `folder`; else `name`, as it is.

    A name of a file always means one in `folder`, a module is looked for there first.
    """
    module, separator, attribute = name.rpartition(":")
    named = module.endswith(".py")
    file = folder / (module if named else module.replace(".", "/") + ".py")
    return f"{file}:{attribute}" if separator and (named or file.is_file()) else name


def _import(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises at import
        raise InputError(
            f"cannot import {module}: {type(error).__name__}: {error}",
            place=name,
            repair="install it, or name its file: path/to/file.py:function",
        ) from error


def _import_file(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"stillhouse_user_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(f"there is no file {path}", place=name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's module raises at import
        raise InputError(f"{type(error).__name__}: {error}", place=str(path)) from error
    return module


def _call(function: Callable[..., Any], name: str, text: str, item: Item) -> float:
    try:
        score = function(text, item)
    except Exception as error:  # the user's code
        raise InputError(
            f"raised {type(error).__name__}: {error} for item {item.id!r}",
            place=name,
            repair="return 0.0 for a wrong reply instead of raising",
        ) from error
    if not isinstance(score, bool | int | float | np.floating | np.bool_) or not 0 <= score <= 1:
        raise InputError(
            f"returned {score!r} for item {item.id!r}",
            place=name,
            repair="return a number from 0 (wrong) to 1 (right)",
        )
    return float(score)
