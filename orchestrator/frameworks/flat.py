"""Layouts that are one folder of files, each under the last name of its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks.base import LayoutError, LayoutResult
from orchestrator.model import Place
from orchestrator.text import fault_of_name

if TYPE_CHECKING:
    from orchestrator.manifest.values import Model


def layout(model: Model, folder: str, value: str = "", *, private: bool = False) -> LayoutResult:
    """Each file in `folder` by the last name of its URL; `value` is another name for a model's only file.

    Raises:
        LayoutError: a URL has no last name, or one file's name is given to several.
    """
    if value and len(model.files) != 1:
        raise LayoutError(f"`{value}` cannot be the name of {len(model.files)} files")
    names = [relative(value)] if value else [last_name(file.url) for file in model.files]
    return LayoutResult(tuple((Place(f"{folder}/{name}", model.link, private),) for name in names))


def last_name(url: str) -> str:
    """What os.path.basename makes of a URL's path: percent-encoding is kept, the query is not.

    Raises:
        LayoutError: that is nothing, or no file's name.
    """
    name = url.partition("#")[0].partition("?")[0].rpartition("/")[2]
    if fault_of_name(name) or name in (".", ".."):
        raise LayoutError(f"the URL {url} does not end in a file's name")
    return name


def relative(text: str) -> str:
    """A value of `for:` as the path below a framework's folder that it is.

    Raises:
        LayoutError: it leads out of that folder, or is none.
    """
    for name in text.split("/"):
        if name in (".", "..") or fault_of_name(name):
            raise LayoutError(f"`{text}` is not a path below the framework's folder")
    return text


def refuse_value(framework: str, value: str) -> None:
    """Refuse a value for a framework that takes none.

    Raises:
        LayoutError: there is one.
    """
    if value:
        raise LayoutError(f"{framework} takes no value (`{value}`): it knows its files by their URLs' last names")
