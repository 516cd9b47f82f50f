"""Job configuration: frozen models of a whole job, read from YAML, overridden with key=value."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import ErrorDetails

from factory.errors import ConfigError
from factory.terminal import holds_password


def _path(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str) else value


LocalPath = Annotated[Path, BeforeValidator(_path)]
"""A path as YAML writes it, which has only strings."""
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Shots = Count | Mapping[str, Count]
"""Images of each class, or of those that are named; of others all."""
MAX_CHARACTERS = 2**20
"""A longer configuration is none: the longest preset has two kilobytes."""
MAX_DEPTH = 50
"""Of sections within sections, likewise."""
MAX_SHOWN = 200
"""Characters of a wrong value that an error repeats."""


class Frozen(BaseModel):
    """Base of all configuration: immutable; unknown keys, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Config = TypeVar("Config", bound=BaseModel)


def load_config(kind: type[Config], source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read `source` (a file, or the name of a preset) and apply `key=value` overrides.

    Keys of nested models are joined with dots: `gates.min_contrast=0.05`. Values are YAML.

    Raises:
        ConfigError: missing file, broken YAML, unknown key, wrong type, value out of range.
    """
    return parse_config(kind, read_config(source, overrides), where=str(source))


def read_config(source: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return what `load_config` parses: for a configuration that says itself of which kind it is.

    Raises:
        ConfigError: missing file, broken YAML, an override that fits nowhere, a password in a URL.
    """
    stored = _read_yaml(_find(source))
    for text in overrides:
        _override(stored, text)
    for key, text in _texts(stored):
        if holds_password(text):
            raise ConfigError(
                f"{key} holds a password in a URL, and rows and cards would tell it",
                remedy="Leave it out: credentials come from the environment",
            )
    return stored


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) of every text in plain data, keys joined with dots."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value


def parse_config(kind: type[Config], stored: Mapping[str, Any], *, where: str) -> Config:
    """Return `kind` from plain data; types are not guessed: neither `"12"` nor `true` is a number.

    Raises:
        ConfigError: naming the first key that is wrong, its value, and what was expected.
    """
    exact = _exact(stored)
    try:
        return kind.model_validate(exact, strict=True)
    except ValidationError as error:
        raise _explain(kind, error, exact, where) from error


def check_places(config: BaseModel, *, where: str) -> None:
    """Raise where a path that a configuration names leads nowhere: now, and not when it is read.

    Raises:
        ConfigError: naming the key and the path.
    """
    for key, place in _places(config):
        if not place.exists():
            raise ConfigError(
                f"{where}: {key} is {str(place)!r}, and nothing is there",
                remedy="Correct the path, or leave the key out",
            )


def _places(config: BaseModel, above: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the paths of a configuration and the keys that name them."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Path):
            yield above + name, value
        elif isinstance(value, BaseModel):
            yield from _places(value, f"{above}{name}.")


def to_yaml(config: BaseModel) -> str:
    """Return the configuration as YAML that `load_config` reads back to an equal one."""
    plain = config.model_dump(mode="json")
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def preset_names() -> list[str]:
    """Return the presets that ship with the factory."""
    return sorted(p.name for p in files("factory.presets").iterdir() if p.name.endswith(".yaml"))


def _exact(value: Any) -> Any:
    """Return plain data as strict validation takes it: tuples for lists, 2 for 2.0 (one number)."""
    if isinstance(value, Mapping):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_exact(item) for item in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Loader(yaml.SafeLoader):
    """YAML without its traps: a key twice is an error, and 1e-3 is a number.

    There are no aliases: a few lines of them unfold to billions of values.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="aliases (*name) are not read")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(problem=f"more than {MAX_DEPTH} levels deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, times in keys.items() if times > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {twice[0]!r} is written twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as the text it is."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"),
        list("-+0123456789"),
    )


def _load(text: str) -> Any:
    """Raise `yaml.YAMLError` for whatever is no plain data of a moderate size."""
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"{len(text):,} characters, at most {MAX_CHARACTERS:,} are read")
    try:
        return yaml.load(text, _Loader)  # noqa: S506 -- a SafeLoader
    except (ValueError, LookupError, RecursionError) as error:  # no such day, a digit too many
        raise yaml.YAMLError(str(error)) from error


def _find(source: str | Path) -> Path:
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return path
    preset = Path(str(files("factory.presets"))) / path.name
    if preset.with_suffix(".yaml").is_file():
        return preset.with_suffix(".yaml")
    raise ConfigError(
        f"no configuration at {str(source)!r}",
        remedy=f"Give a YAML file or one of the presets {', '.join(preset_names())}",
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        stored = _load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} is not readable YAML ({' '.join(str(error).split())})",
            remedy="Correct the file; `key: value` lines, indented with spaces",
        ) from error
    if not isinstance(stored, dict):
        raise ConfigError(f"{path} holds no keys", remedy="Write `key: value` lines")
    return stored


def _override(stored: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text!r} is not key=value", remedy="Write --set num_images=512")
    *path, last = key.split(".")
    for name in path:
        inner = stored.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {text!r}: {name!r} is a value, not a section",
                remedy="Name a key that the configuration has",
            )
        stored = inner
    try:
        stored[last] = _load(value)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise ConfigError(
            f"--set {text!r}: the value is not YAML ({reason})", remedy="Correct or quote it"
        ) from error


def _explain(kind: type[BaseModel], error: ValidationError, stored: Any, where: str) -> ConfigError:
    first = _deepest(error, stored)
    absent = first["type"] == "missing"
    parts = [*_written(first["loc"], stored), *(first["loc"][-1:] if absent else ())]
    key = ".".join(map(str, parts))
    if first["type"] == "extra_forbidden":
        known = ", ".join(_section(kind, first["loc"][:-1], stored).model_fields)
        return ConfigError(f"{where}: unknown key {key!r}", remedy=f"Known keys: {known}")
    value = "" if absent or not key else f" is {_shown(first['input'])}"
    if first["loc"][-1:] == ("[key]",):  # a name, which YAML took for something else
        key, value = f"{first['loc'][0]}.{first['input']}", f" is {_shown(first['input'])}"
    told = f"{key}{value}: " if key else ""
    message = first["msg"].removeprefix("Value error, ")
    if isinstance(first["input"], bool) and first["type"] in _TEXT_ERRORS:
        message = "no text"
    return ConfigError(f"{where}: {told}{message}", remedy=_remedy(first))


KINDS = ("design", "task")
"""Keys that name one of several kinds."""
_TEXT_ERRORS = ("string_type", "is_instance_of")


def _remedy(error: ErrorDetails) -> str:
    """Return what to do; YAML's own idea of `no`, `on` and `1` surprises whoever has such names."""
    if error["type"] not in _TEXT_ERRORS or isinstance(error["input"], str | Mapping | tuple):
        return "Correct this value and run again"
    return (
        "Quote it ('no'): YAML reads no, off, yes and on as false and true, 1 and 1.5 as"
        " numbers, null and ~ as nothing, 2024-01-01 as a day"
    )


def _deepest(error: ValidationError, stored: Any) -> ErrorDetails:
    """Return the first error, or of what fits none of several kinds the one nearest to a fit."""
    errors = error.errors()
    begun = [*_written(errors[0]["loc"], stored)]
    same = [e for e in errors if [*_written(e["loc"], stored)][: len(begun)] == begun]
    return max(same, key=lambda e: len([*_written(e["loc"], stored)]))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


def _written(loc: Sequence[int | str], stored: Any) -> Iterator[int | str]:
    """Yield the keys of an error that stand in `stored`: pydantic adds 'str', '[key]' and such.

    Behind the key of one of several kinds it names the kind, which may be called as a key of it is:
    `ratio` of `{design: ratio, ratio: 1}`.
    """
    entered = False
    for part in loc:
        if entered and isinstance(stored, Mapping) and part in map(stored.get, KINDS):
            entered = False
            continue
        entered = True
        listed = isinstance(stored, tuple) and isinstance(part, int) and part < len(stored)
        if listed or (isinstance(stored, Mapping) and part in stored):
            stored = stored[part]
            yield part


def _section(kind: type[BaseModel], loc: Sequence[int | str], stored: Any) -> type[BaseModel]:
    """Return the model at `loc`, or the last one on the way; of several kinds the one it names.

    If it names none, the one that knows most of the keys that are written there.
    """
    for part in loc:
        field = kind.model_fields.get(str(part))
        models = [] if field is None else [*_models(field.annotation)]
        named = [m for m in models if any(f.default in loc for f in m.model_fields.values())]
        stored = stored.get(part) if isinstance(stored, Mapping) and part in stored else stored
        written = set(stored) if isinstance(stored, Mapping) else set()
        kind = max(named or models or [kind], key=lambda m: len(written & set(m.model_fields)))
    return kind


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a field of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
