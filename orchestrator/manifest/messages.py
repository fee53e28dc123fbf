"""Turn jsonschema's errors into messages for people."""

from __future__ import annotations

import difflib
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from orchestrator.bandwidth import parse_hour, parse_rate
from orchestrator.manifest.types import Document, ModelEntry, SiteDocument, schema
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestrator.manifest.values import Key, Problems

NO_VERSION = "missing `version: 1`"
LONGEST_KEY = 60
LONGEST_VALUE = 40  # of a value that is repeated in a message
KINDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "null": "nothing",
    "boolean": "true or false",
}
_READERS: dict[str, Callable[[str], object]] = {"rate": parse_rate, "hour": parse_hour}
DIGITS = {"digest": 64, "sha512": 128, "sha1": 40, "md5": 32}
_DIGEST_OF = {32: ("an MD5", "md5"), 40: ("a SHA-1", "sha1"), 64: ("a SHA-256", "sha256"), 128: ("a SHA-512", "sha512")}
# How a value is written, where a mapping or a list is expected and something else was found.
_OF_A_MODEL = "write its keys indented below its name, such as `url: URL` and `to: PATH`"
_FORMS = {
    "models": "write `NAME:` and, indented below it, the keys of the model, without a `-`",
    "hosts": "write `HOST: {token_env: VARIABLE}`",
    "defaults": "write `{for: FRAMEWORK}` or another key of a model",
    "files": "write `- {path: NAME, url: URL, sha256: HEX}` for each file",
}
_PREFIXES = "write `- {origin: URL, urls: [URL]}`"


def schema_problems(data: object, of: type[Document | SiteDocument | ModelEntry], at: Key = ()) -> Problems:
    """Check `data` against the JSON Schema of a type and return its problems.

    Args:
        data: plain data as `yaml_reader` gives it: every scalar is text; `x-` keys are taken out.
        of: the type that `data` should be.
        at: the key of `data` in the whole document.
    """
    definitions, validator = _judge(of)
    problems = [problem for error in validator.iter_errors(data) for problem in _problems(error, definitions)]
    return [((*at, *key), _with_form((*at, *key), message, key, data)) for key, message in dict.fromkeys(problems)]


@cache
def _judge(of: type[Document | SiteDocument | ModelEntry]) -> tuple[dict[str, Any], Any]:
    """The definitions of a schema and its validator: one each for a whole manifest, made once."""
    definitions: dict[str, Any] = schema(SiteDocument if of is SiteDocument else Document)["$defs"]
    return definitions, _Validator({"$ref": f"#/$defs/{of.__name__}", "$defs": definitions})


def is_foreign(data: object, of: type[Document | SiteDocument]) -> bool:
    """Whether a mapping has no key that a manifest has, nor one that is spelt much like it."""
    known = [*_judge(of)[0][of.__name__]["properties"]]
    return (
        isinstance(data, dict)
        and bool(data)
        and not any(key in known or difflib.get_close_matches(key[:LONGEST_KEY], known, 1) for key in data)
    )


def lost_indentation(data: dict[str, Any]) -> Problems:
    """Find keys that are indented too little, and put them in `data` where they belong.

    Found are a model right below no `models:`, but at the top, and a model's keys beside its name.
    """
    problems: Problems = []
    keys = _judge(Document)[0]["ModelEntry"]["properties"].keys()
    top = _judge(Document)[0]["Document"]["properties"].keys()
    if data.get("models", "") is None:
        lost = {name: each for name, each in data.items() if name not in top and _is_like_a_model(each, keys)}
        for name in lost:
            del data[name]
            problems.append(((name,), "indent this below `models:`"))
        if lost:
            data["models"] = lost
    models: Any = data.get("models")
    name = ""
    for key, value in list(models.items()) if isinstance(models, dict) else ():
        if value is None or key not in keys:
            name = key if value is None else ""
        elif name and not isinstance(value, dict):
            if models[name] is None:
                models[name] = {}
                problems.append(
                    (("models", key), f"indent this below `{shown(name)}:`, with the keys that belong to it")
                )
            models[name][key] = models.pop(key)
    return problems


def _is_like_a_model(value: object, keys: Iterable[str]) -> bool:
    return isinstance(value, dict) and any(key in keys for key in value)


def _with_form(at: Key, message: str, key: Key, data: Any) -> str:
    """Add to a message how the value is written; or the mistake itself, where it can be guessed."""
    if not message.startswith(("expected a mapping", "expected a list")):
        return message
    for part in key:
        data = data[part]
    if isinstance(data, str):
        before, colon, _ = data.partition(":")
        known = _judge(Document)[0]["ModelEntry"]["properties"] if at else ("version", "models")
        if colon and before in known:
            return f"a space is missing after `{before}:`"
    if at[:-1] == ("models",):
        return f"{message}: {_OF_A_MODEL}"
    if form := _PREFIXES if at == ("mirrors",) else _FORMS.get(str(at[-1])) if at else "":
        return f"{message}: {form}"
    if message.startswith("expected a list") and isinstance(data, str) and len(data) <= LONGEST_VALUE:
        return f"{message}: write `[{shown(data)}]`"
    return message


def _problems(error: Any, definitions: dict[str, Any]) -> Iterator[tuple[Key, str]]:
    at: Key = tuple(error.absolute_path)
    match error.validator:
        case "additionalProperties":
            for key in error.instance.keys() - error.schema["properties"].keys():
                yield (*at, key), _unknown(key, error.schema)
        case "required":
            for key in error.validator_value:
                if key not in error.instance:
                    yield ((*at, key), NO_VERSION) if key == "version" else (at, f"`{key}` is missing")
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
        is_number = _number(value) is not None
        return (
            f"manifest version {value} is not supported: this orch reads version 1"
            if is_number
            else (f"expected `version: 1`, found {_found(value)}")
        )
    match error.validator:
        case "pattern" if length := DIGITS.get(error.schema.get("title")):
            return _wrong_digits(length, value)
        case "pattern" if error.schema.get("title") == "variable":
            return "expected the name of a variable, such as CORP_TOKEN"
        case "pattern" if error.schema.get("title") in _READERS:
            return _refusal(_READERS[error.schema["title"]], value)
        case "pattern" if error.schema.get("title") == "ports":
            return "expected ports such as `6881-6999`"
        case "pattern":
            return "expected letters, digits, `_`, `.` and `-` only"
        case "minLength" | "minItems":
            return "is empty"
        case "maxItems":
            return f"has more than {error.validator_value} elements"
        case "minimum":
            return f"expected a whole number from {error.validator_value} up"
        case "maximum":
            return f"expected a whole number up to {error.validator_value}"
    return _expected([error.schema], value, definitions)


def _wrong_digits(length: int, value: str) -> str:
    digits = re.sub("^(sha256|sha512|sha1|md5):", "", value.lower())
    odd = re.sub("[0-9a-f]", "", digits)
    if odd or len(digits) not in _DIGEST_OF:
        return f"expected {length} hex digits, found {f'`{shown(odd[0])}`' if odd else len(digits)}"
    name, key = _DIGEST_OF[len(digits)]
    return f"expected {length} hex digits, found {len(digits)}: this looks like {name}, use `{key}:`"


def _refusal(read: Callable[[str], object], text: str) -> str:
    try:
        read(text)
    except ValueError as refusal:
        return str(refusal)
    return "is not plain text"


def _expected(choices: Iterable[dict[str, Any]], value: object, definitions: dict[str, Any]) -> str:
    words: list[str] = []
    known: list[str] = []
    for choice in choices:
        definition = definitions[choice["$ref"].rpartition("/")[2]] if "$ref" in choice else choice
        if "enum" in definition:
            known += definition["enum"]
            words.append(f"one of {', '.join(definition['enum'])}")
        elif definition.get("title") == "size":
            words.append("the exact number of bytes, such as 102540417")
        elif definition.get("type") != "null" and not (known and isinstance(value, str)):
            words.append(KINDS[definition["type"]])
    expected = f"expected {' or '.join(words)}, found {_found(value)}"
    if not isinstance(value, str):
        return expected
    # Every scalar is text here: which one it is tells nothing where a mapping or a list is expected.
    if words[0] in (KINDS["object"], KINDS["array"]):
        return f"expected {' or '.join(words)}, found text"
    near = difflib.get_close_matches(value[:LONGEST_KEY].lower(), known, 1)
    return f"{expected}, did you mean `{near[0]}`?" if near else expected


def _unknown(key: str, definition: dict[str, Any]) -> str:
    before = key.partition(":")[0]
    if before != key and before in definition["properties"]:
        return f"a space is missing after `{before}:`"
    near = _near(key[:LONGEST_KEY], tuple(definition["properties"]))
    name = shown(key) if len(key) <= LONGEST_KEY else f"{shown(key[:LONGEST_KEY])}..."
    return f"unknown key `{name}`, did you mean `{near[0]}`?" if near else f"unknown key `{name}`"


@lru_cache(maxsize=1024)  # one mistake is often made in each model
def _near(word: str, known: tuple[str, ...]) -> list[str]:
    return difflib.get_close_matches(word, known, 1)


def _found(value: object) -> str:
    """What stands there, in words: a short text itself."""
    if isinstance(value, str):
        return f"`{shown(value)}`" if len(value) <= LONGEST_VALUE else f"`{shown(value[:LONGEST_VALUE])}...`"
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
