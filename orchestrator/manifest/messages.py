"""Turn jsonschema's errors into messages for people."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

import msgspec
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from orchestrator.manifest.types import Document, ModelEntry, SiteDocument, schema
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.manifest.values import Key, Problems

# Keys that are reserved by the contract, and that no code reads yet.
NOT_YET = {
    "manifest": ["limits", "swarm"],
    "site file": ["limits"],
}
VERSION = "this orch reads version 1"
LONGEST_KEY = 60
KINDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "null": "nothing",
    "boolean": "true or false",
}
DIGITS = {"digest": 64, "sha512": 128, "sha1": 40, "md5": 32}


def schema_problems(data: object, of: type[Document | SiteDocument | ModelEntry], at: Key = ()) -> Problems:
    """Check `data` against the JSON Schema of a type and return its problems.

    Args:
        data: plain data as `yaml_reader` gives it: every scalar is text; `x-` keys are taken out.
        of: the type that `data` should be.
        at: the key of `data` in the whole document.
    """
    whole = schema(SiteDocument if of is SiteDocument else Document)
    definitions = whole["$defs"]
    validator = _Validator({"$ref": f"#/$defs/{of.__name__}", "$defs": definitions})
    problems = [problem for error in validator.iter_errors(data) for problem in _problems(error, definitions)]
    return [((*at, *key), message) for key, message in dict.fromkeys(problems)]


def _problems(error: Any, definitions: dict[str, Any]) -> Iterator[tuple[Key, str]]:
    at: Key = tuple(error.absolute_path)
    match error.validator:
        case "additionalProperties":
            for key in error.instance.keys() - error.schema["properties"].keys():
                yield (*at, key), _unknown(key, error.schema)
        case "required":
            for key in error.validator_value:
                if key not in error.instance:
                    yield ((*at, key), VERSION) if key == "version" else (at, f"`{key}` is missing")
        case "anyOf":
            yield from _of_alternatives(at, error, definitions)
        case _:
            yield at, _plain(at, error, definitions)


def _of_alternatives(at: Key, error: Any, definitions: dict[str, Any]) -> Iterator[tuple[Key, str]]:
    """The problems of the alternative whose type fits the value; where none fits, what types are expected."""
    alternatives: dict[int, list[Any]] = {}
    for inner in error.context:
        alternatives.setdefault(inner.schema_path[0], []).append(inner)
    for errors in alternatives.values():
        if not any(e.validator in ("type", "enum") and not e.path for e in errors):
            for inner in errors:
                yield from _problems(inner, definitions)
            return
    yield at, _expected(error.validator_value, error.instance, definitions)


def _plain(at: Key, error: Any, definitions: dict[str, Any]) -> str:
    value = error.instance
    if at == ("version",):
        return VERSION
    match error.validator:
        case "type" if at == ("store",) and isinstance(value, list):
            return "a list for `store` is not supported yet"
        case "pattern" if length := DIGITS.get(error.schema.get("title")):
            digits = re.sub("^(sha256|sha512|sha1|md5):", "", value.lower())
            odd = re.sub("[0-9a-f]", "", digits)
            return f"expected {length} hex digits, found {f'`{shown(odd[0])}`' if odd else len(digits)}"
        case "pattern" if error.schema.get("title") == "variable":
            return "expected the name of a variable, such as CORP_TOKEN"
        case "pattern":
            return "expected letters, digits, `_`, `.` and `-` only"
        case "minLength" | "minItems":
            return "is empty"
        case "minimum":
            return f"expected a whole number from {error.validator_value} up"
        case "maximum":
            return f"expected a whole number up to {error.validator_value}"
    return _expected([error.schema], value, definitions)


def _expected(choices: Iterable[dict[str, Any]], value: object, definitions: dict[str, Any]) -> str:
    words = []
    for choice in choices:
        definition = definitions[choice["$ref"].rpartition("/")[2]] if "$ref" in choice else choice
        if "enum" in definition:
            words.append(f"one of {', '.join(definition['enum'])}")
        elif definition.get("type") != "null":
            words.append(KINDS[definition["type"]])
    expected = f"expected {' or '.join(words)}"
    # Every scalar is text here, so "found text" helps only where a mapping or a list is expected.
    is_plain = isinstance(value, str) and words[0] not in (KINDS["object"], KINDS["array"])
    return expected if is_plain else f"{expected}, found {_kind(value)}"


def _unknown(key: str, definition: dict[str, Any]) -> str:
    not_yet = NOT_YET.get(definition["title"], [])
    if key in not_yet:
        return f"`{key}` is not supported yet"
    near = difflib.get_close_matches(key[:LONGEST_KEY], [*definition["properties"], *not_yet], 1)
    name = shown(key) if len(key) <= LONGEST_KEY else f"{shown(key[:LONGEST_KEY])}..."
    return f"unknown key `{name}`, did you mean `{near[0]}`?" if near else f"unknown key `{name}`"


def _kind(value: object) -> str:
    return {dict: "a mapping", list: "a list", type(None): "nothing"}.get(type(value), "text")


def _number(value: object) -> int | None:
    # As in `types`, a whole number may be written as text.
    try:
        return msgspec.convert(value, int, strict=False) if isinstance(value, (int, str)) else None
    except msgspec.ValidationError:
        digits = value if isinstance(value, str) else ""
        return 2**63 if re.fullmatch("-?[1-9][0-9]{18,}", digits) else None


def _minimum(_validator: Any, least: int, value: object, _definition: Any) -> Iterator[ValidationError]:
    number = _number(value)
    if number is not None and number < least:
        yield ValidationError("too small")


def _maximum(_validator: Any, most: int, value: object, _definition: Any) -> Iterator[ValidationError]:
    number = _number(value)
    if number is not None and number > most:
        yield ValidationError("too large")


_Validator: Any = extend(
    Draft202012Validator,
    {"minimum": _minimum, "maximum": _maximum},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _checker, value: not isinstance(value, bool) and _number(value) is not None,
            "boolean": lambda _checker, value: str(value).lower() in ("true", "false", "1", "0"),
        }
    ),
)
