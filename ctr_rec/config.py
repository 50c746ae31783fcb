"""How a run is said: frozen nested configs, strict overrides, JSON round trip, recipes as Python functions."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer, model_validator
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from ctr_rec.errors import ConfigError, CtrRecError

C = TypeVar("C", bound="Config")
LONGEST_VALUE = 80  # of a refused value in a message


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
    """Only config classes of this package or of modules already loaded (a recipe's own) are looked up.

    A saved config is data: naming a module must not be a way to run it.
    """
    module, _, name = str(path).partition(":")
    if module not in sys.modules and not module.startswith("ctr_rec."):
        raise ValueError(
            f"kind {path!r} is neither of ctr_rec nor of a recipe that is loaded; move the class to ctr_rec"
        )
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"kind {path!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise ValueError(f"expected the path of a config class, got {path!r}")
    return found


def explain(error: ValidationError, what: str) -> ConfigError:
    """Turns a validation failure into one sentence per finding."""
    return ConfigError(f"{what}: " + "; ".join(_finding(e) for e in error.errors()))


def _finding(error: ErrorDetails) -> str:
    where = ".".join(str(x) for x in error["loc"])
    prefix = f"{where}: " if where else ""
    if error["type"] == "value_error" and "ctx" in error:
        # Our own validators say themselves what they got.
        return f"{prefix}{error['ctx']['error']}"
    value, message = error["input"], error["msg"]
    got = "" if isinstance(value, (dict, list, BaseModel)) else f", got {_shortened(repr(value))}"
    return f"{prefix}{message[0].lower()}{message[1:]}{got}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def override(config: C, assignments: list[str]) -> C:
    """Returns a copy with each `a.b=value` applied; values are JSON, or plain text where that is not JSON.

    A key of a dict of named children (tables, channels) may be new, as long as it does not look like a mistyped one.

    Raises:
        ConfigError: unknown key (names its nearest neighbours), a value the field refuses, a missing "=".
    """
    for text in assignments:
        path, eq, raw = text.partition("=")
        if not eq:
            raise ConfigError(f"--set expects key=value, got {text!r}; for example --set train.seed=3")
        config = _set(config, path.strip().split("."), raw, path.strip())
    return config


def _set(node: Any, keys: list[str], raw: str, full: str) -> Any:
    """The node with the value at `keys` below it replaced; configs are rebuilt, so that their validators run again."""
    if not isinstance(node, (BaseModel, dict)):
        raise ConfigError(f"--set {full}: {keys[0]!r} is below a plain value; settings end one step earlier")
    children = node if isinstance(node, dict) else {name: getattr(node, name) for name in type(node).model_fields}
    key, rest = keys[0], keys[1:]
    if key not in children:
        _refuse_unknown(node, key, [str(k) for k in children], full)
    current = children.get(key, {} if rest else None)
    child = _set(current, rest, raw, full) if rest else _parse(raw, current, full)
    changed = {**children, key: child}
    if isinstance(node, dict):
        return changed
    try:
        return type(node)(**changed)
    except ValidationError as error:
        raise explain(error, f"--set {full}={_shortened(raw)}") from error


def _refuse_unknown(node: Any, key: str, names: list[str], full: str) -> None:
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.4)
    if isinstance(node, dict) and not near:
        return
    hint = f"did you mean {' or '.join(near)}?" if near else f"known here: {', '.join(names)}"
    if isinstance(node, dict):
        hint += " (a new key that resembles one takes setting the whole)"
    raise ConfigError(f"--set {full}: unknown key {key!r}; {hint}")


def _parse(raw: str, current: Any, full: str) -> Any:
    """What the text means for a setting whose value is `current` now."""
    if isinstance(current, str) and not raw.startswith('"'):
        return None if raw == "null" else raw
    try:
        value = json.loads(raw)
    except json.JSONDecodeError:
        return raw
    # Python would take true for 1, but nobody who types true means a number.
    if isinstance(value, bool) and isinstance(current, (int, float)) and not isinstance(current, bool):
        raise ConfigError(f"--set {full}: expected a number such as {current}, got {raw}")
    return value


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
    module = load_module(path, f"ctr_rec_recipe_{path.stem}")
    offered = [k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
    offered = [k for k in offered if not k.startswith("_")]
    if name not in offered:
        near = difflib.get_close_matches(name, offered, n=3, cutoff=0.4)
        raise ConfigError(f"{path} has no function {name!r}; it offers: {', '.join(near or offered) or 'none'}")
    return getattr(module, name)


def load_module(path: Path, name: str) -> ModuleType:
    """Runs a user's Python file as module `name`. Raises ConfigError that names the file when it raises."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except CtrRecError:
        raise
    except ValidationError as error:
        raise explain(error, str(path)) from error
    except Exception as error:
        raise ConfigError(f"{path} raises {type(error).__name__} when loaded: {error}") from error
    return module


def load_recipe(target: str, expected: type[C]) -> C:
    """Calls the recipe function and checks that it returns `expected`. Raises ConfigError otherwise."""
    function = load_function(target)
    try:
        result = function()
    except CtrRecError:
        raise
    except ValidationError as error:
        raise explain(error, target) from error
    except Exception as error:
        raise ConfigError(f"recipe {target} raises {type(error).__name__}: {error}") from error
    if not isinstance(result, expected):
        raise ConfigError(f"recipe {target} must return {expected.__name__}, got {type(result).__name__}")
    return result
