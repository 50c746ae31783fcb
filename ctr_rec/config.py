"""How a run is said: frozen nested configs, strict overrides, JSON round trip, recipes as Python functions."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer, model_validator
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from ctr_rec.errors import ConfigError

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Frozen, keyword-only settings. Unknown fields are refused; children are validated when built."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class OpenConfig(Config):
    """A config with subclasses (a tower, say): its JSON carries the class path, so that it can be rebuilt.

    Declare such a field as `SerializeAsAny[ParentConfig]`. `kind` is "package.module:ClassName".
    """

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": f"{type(self).__module__}:{type(self).__qualname__}", **handler(self)}

    @model_validator(mode="wrap")
    @classmethod
    def _of_kind(cls, value: Any, handler: Any) -> Any:
        if not isinstance(value, dict) or "kind" not in value:
            return handler(value)
        fields = {k: v for k, v in value.items() if k != "kind"}
        target = _resolve(value["kind"])
        if not issubclass(target, cls):
            raise ValueError(f"expected a kind of {cls.__name__}, got {value['kind']}")
        return handler(fields) if target is cls else target.model_validate(fields)


def _resolve(path: str) -> type:
    """Only classes of this package or of the recipe's own modules are looked up, never an arbitrary callable."""
    module, _, name = path.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise ValueError(f"expected the path of a config class, got {path!r}")
    return found


def explain(error: ValidationError, what: str) -> ConfigError:
    """Turns a validation failure into one sentence per finding."""
    lines = []
    for e in error.errors():
        where = ".".join(str(x) for x in e["loc"]) or "the whole"
        got = f", got {e['input']!r}" if not isinstance(e["input"], (dict, list, BaseModel)) else ""
        lines.append(f"{where}: {e['msg'][0].lower()}{e['msg'][1:]}{got}")
    return ConfigError(f"{what}: " + "; ".join(lines))


def override(config: C, assignments: list[str]) -> C:
    """Returns a copy with each `a.b=value` applied; values are JSON, or plain text where that is not JSON.

    Raises:
        ConfigError: unknown key (names its nearest neighbours), a value the field refuses, a missing "=".
    """
    for text in assignments:
        path, eq, raw = text.partition("=")
        if not eq:
            raise ConfigError(f"--set expects key=value, got {text!r}; for example --set train.seed=3")
        try:
            value = json.loads(raw)
        except json.JSONDecodeError:
            value = raw
        config = _set(config, path.strip().split("."), value, path.strip())
    return config


def _set(node: Any, keys: list[str], value: Any, full: str) -> Any:
    if isinstance(node, BaseModel):
        names = list(type(node).model_fields)
    elif isinstance(node, dict):
        names = [str(k) for k in node]
    else:
        raise ConfigError(f"--set {full}: {keys[0]!r} is below a plain value; settings end one step earlier")
    key = keys[0]
    # A dict of named children (tables, channels) may gain a new key; a config may not.
    if key not in names and not (isinstance(node, dict) and len(keys) == 1):
        near = difflib.get_close_matches(key, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known here: {', '.join(names)}"
        raise ConfigError(f"--set {full}: unknown key {key!r}; {hint}")
    if isinstance(node, dict):
        return {**node, key: value if len(keys) == 1 else _set(node[key], keys[1:], value, full)}
    child = value if len(keys) == 1 else _set(getattr(node, key), keys[1:], value, full)
    # Rebuilt from its fields, so every validator of this level runs again on the new whole.
    fields = {name: getattr(node, name) for name in names}
    try:
        return type(node)(**{**fields, key: child})
    except ValidationError as error:
        raise explain(error, f"--set {full}={value!r}") from error


def from_json(cls: type[C], text: str, what: str) -> C:
    """Rebuilds a config from its JSON. Raises ConfigError that names `what` (a file, usually)."""
    try:
        return cls.model_validate_json(text)
    except ValidationError as error:
        raise explain(error, what) from error


def load_function(target: str) -> Any:
    """`path/to/file.py:name` -> the function. Raises ConfigError that lists what the file does offer."""
    path_text, colon, name = target.rpartition(":")
    if not colon:
        raise ConfigError(f"expected FILE.py:FUNCTION, got {target!r}; for example launch/recipes/movielens.py:din")
    path = Path(path_text)
    if not path.is_file():
        raise ConfigError(f"recipe file {path} does not exist (looked from {Path.cwd()})")
    module = _load_file(path)
    offered = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
    offered = [k for k in offered if not k.startswith("_")]
    if name not in offered:
        near = difflib.get_close_matches(name, offered, n=3, cutoff=0.4)
        raise ConfigError(f"{path} has no function {name!r}; it offers: {', '.join(near or offered) or 'none'}")
    return getattr(module, name)


def _load_file(path: Path) -> Any:
    name = f"ctr_rec_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path} raises {type(error).__name__} when loaded: {error}") from error
    return module


def load_recipe(target: str, expected: type[C]) -> C:
    """Calls the recipe function and checks that it returns `expected`. Raises ConfigError otherwise."""
    function = load_function(target)
    try:
        result = function()
    except ConfigError:
        raise
    except ValidationError as error:
        raise explain(error, target) from error
    except Exception as error:
        raise ConfigError(f"recipe {target} raises {type(error).__name__}: {error}") from error
    if not isinstance(result, expected):
        raise ConfigError(f"recipe {target} must return {expected.__name__}, got {type(result).__name__}")
    return result
