"""Configs: load a file with its variants, override keys, turn sections into keyword arguments, compare and store."""

import ast
import difflib
import importlib.util
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference, config_dict

from common.errors import InputError


def nearest(name: str, names: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest of `names`, or the list of them."""
    names = [str(n) for n in names]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(names))}"


def load_config(spec: str, overrides: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """The config of 'configs/NAME.py[:variant,variant]' with `overrides` ('section.key' -> text) applied; locked.

    Raises InputError where the file, a variant, a key or a value is wrong.
    """
    path, _, variant = spec.partition(":")
    config = load_module(path, "--config", "get_config", "configs/unet_brain.py").get_config(variant)
    config.lock()
    for key, text in dict(overrides).items():
        override(config, key, text)
    return config


def load_module(path: str, flag: str, function: str, example: str) -> Any:
    """The module of a Python file. Raises InputError where there is none, or it has no such function."""
    if not Path(path).is_file():
        raise InputError(
            f"{flag} {path}: no such file; there are some in {Path(example).parent}/, for example {example}"
        )
    module_spec = importlib.util.spec_from_file_location("given_file", path)
    if module_spec is None:
        raise InputError(f"{flag} {path}: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise InputError(f"{flag} {path}: has no function {function}; {example} shows one")
    return module


def variants(text: str, known: Iterable[str]) -> set[str]:
    """The variants in 'a,b'; raises InputError for one that is not known."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    for name in names:
        if name not in known:
            raise InputError(f"variant {name!r} is not one of this config's; {nearest(name, known)}")
    return names


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets config.<key> from `text`, by the type that the key has. Raises InputError that names the key and the cure."""
    *sections, name = key.split(".")
    section = config
    for place, part in enumerate([*sections, name]):
        if not isinstance(section, ConfigDict) or part not in section:
            known = section.keys() if isinstance(section, ConfigDict) else []
            raise InputError(
                f"--config.{key}: there is no key {'.'.join(key.split('.')[: place + 1])!r}; {nearest(part, known)}"
            )
        if place < len(sections):
            section = section[part]
    if isinstance(section[name], ConfigDict):
        raise InputError(
            f"--config.{key}={text}: this is a section; set one of its keys: {', '.join(section[name].keys())}"
        )
    section[name] = parse(text, section[name], section.get_type(name), key)


def parse(text: str, old: Any, kind: type, key: str) -> Any:
    """`text` as a value of type `kind` (that of the value `old`)."""
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
        if kind is list:
            value = (
                ast.literal_eval(text) if text.startswith("[") else [ast.literal_eval(part) for part in text.split(",")]
            )
            if not isinstance(value, list) or (old and value and not same_kind(value[0], old[0])):
                raise ValueError(text)
            return value
        if kind is str:
            return text
    except (ValueError, KeyError, SyntaxError):
        pass
    raise InputError(f"--config.{key}={text}: expected {kind.__name__}, like {old!r}")


def same_kind(a: Any, b: Any) -> bool:
    numbers = (int, float)
    return type(a) is type(b) or (isinstance(a, numbers) and isinstance(b, numbers))


def kwargs(section: ConfigDict) -> dict[str, Any]:
    """A section as plain, hashable keyword arguments: lists become tuples, sections dicts, unset placeholders vanish."""

    def plain(value):
        if isinstance(value, FieldReference):
            value = value.get()
        if isinstance(value, ConfigDict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return tuple(plain(v) for v in value)
        return value

    return {name: plain(value) for name, value in section.items() if value is not None}


def check_keys(
    function: Callable, section: str, given: Mapping[str, Any], also: Iterable[str] = ()
) -> Mapping[str, Any]:
    """`given`, if every key is an argument of `function` or one of `also`; else InputError with the nearest right name."""
    hidden = ("parent", "name") if hasattr(function, "__dataclass_fields__") and hasattr(function, "apply") else ()
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in hidden]
    for name in given:
        if name not in known:
            raise InputError(f"config.{section}.{name}: {section} has no such key; {nearest(name, [*known, *also])}")
    return given


def call(function: Callable, section: str, given: ConfigDict | Mapping[str, Any], **more: Any) -> Any:
    """function(**given, **more), with the keys checked. Raises InputError for a key that the function does not take."""
    given = kwargs(given) if isinstance(given, ConfigDict) else dict(given)
    return function(**check_keys(function, section, given), **more)


DURATION = re.compile(r"^\s*([0-9.]+(?:e[0-9]+)?)\s*(steps?|epochs?|examples?|%)\s*$")


def steps(duration: str, *, examples: int, batch_size: int, total: int | None = None, key: str = "duration") -> int:
    """'300 steps', '10 epochs', '5000 examples' or '5%' (of `total`) as a number of steps, rounded up.

    One epoch is `examples` examples. Raises InputError where the text is none of these.
    """
    match = DURATION.match(str(duration))
    if not match or (match[2] == "%" and total is None):
        raise InputError(
            f"config.{key}={duration!r}: expected a duration like '300 steps', '10 epochs', '5000 examples' or '5%'"
        )
    number, unit = float(match[1]), match[2].rstrip("s")
    per_unit = {"step": 1, "epoch": examples / batch_size, "example": 1 / batch_size, "%": (total or 0) / 100}[unit]
    return math.ceil(number * per_unit - 1e-9)


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config of a run folder. null was a placeholder that nobody set: what reads it never sees it."""
    return ConfigDict(json.loads(text)).lock()


# Where data is and how it is read: not what is read.
READING = ("data.root", "data.threads", "data.cache_mb", "data.scratch")
FREE = ("loop", "mesh", *READING)


def difference(old: ConfigDict, new: ConfigDict, free: tuple[str, ...] = FREE) -> list[str]:
    """'key: old -> new' for each key that differs and may not; `free` are keys and sections that may."""

    def leaves(tree, prefix=""):
        for name, value in tree.items():
            path = f"{prefix}{name}"
            if isinstance(value, dict):
                yield from leaves(value, f"{path}.")
            else:
                yield path, value

    a, b = (dict(leaves(json.loads(to_json(c)))) for c in (old, new))
    bound = [k for k in sorted(a | b) if not any(k == f or k.startswith(f"{f}.") for f in free)]
    return [f"{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in bound if a.get(k) != b.get(k)]


placeholder = config_dict.placeholder
