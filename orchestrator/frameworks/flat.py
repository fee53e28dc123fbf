"""Frameworks that keep all files in one folder, each file under the last name of its URL: one table of them.

A new framework of this kind is one row of `FLAT` and its word in `manifest/types.py`.
"""

from __future__ import annotations

import posixpath
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from orchestrator.frameworks import base
from orchestrator.frameworks.base import LayoutError, LayoutResult
from orchestrator.model import Link, Place
from orchestrator.text import fault_of_name
from orchestrator.urls import split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.context import Context
    from orchestrator.manifest.values import Model


class Value(Enum):
    """What the value in `for: {FRAMEWORK: VALUE}` means."""

    REFUSED = "refused"
    BELOW_FOLDER = "the file's path below the folder"
    BELOW_HOME = "the file's name in the folder, or its path below the framework's home where it has a `/`"


class FlatLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The layout of a framework that keeps all its files in `folder`, a path below its `home`.

    `variable` is the environment variable that names the home, "" if the framework reads none. `rewrites` is true
    where the framework opens a file that it takes for wrong with "wb": that would write through any link into the
    store, so such a file never shares an inode with its blob.
    """

    NAME: str
    home: Callable[[Context], str]
    folder: str
    variable: str = ""
    value: Value = Value.REFUSED
    rewrites: bool = False

    @property
    def SAFE(self) -> tuple[Link, ...]:  # noqa: N802 - as `base.Layout` names it
        """The link modes that a manifest may insist on."""
        return (Link.REFLINK, Link.COPY) if self.rewrites else (Link.HARD, Link.REFLINK, Link.SYMLINK, Link.COPY)

    @property
    def OFFLINE(self) -> Mapping[str, str]:  # noqa: N802
        """None of these frameworks has a variable that keeps it off the network."""
        return {}

    def layout(self, context: Context, model: Model, value: str) -> LayoutResult:
        """Give each file its place in the folder.

        Raises:
            LayoutError: a URL ends in no file name, or the value does not suit this framework.
        """
        if self.value is Value.REFUSED:
            refuse_value(self.NAME, value)
        home = self.home(context)
        folder = home if self.value is Value.BELOW_HOME and "/" in value else f"{home}/{self.folder}"
        return layout(model, folder, value, private=self.rewrites)

    def variables(self, context: Context) -> Mapping[str, str]:
        """The variable that names the home, with the home that is used now."""
        return {self.variable: self.home(context)} if self.variable else {}


def layout(model: Model, folder: str, value: str = "", *, private: bool = False) -> LayoutResult:
    """Give each file of a model a place in `folder`, by the last name of its URL.

    Args:
        model: the model; with a `value` it must have exactly one file.
        folder: an absolute path.
        value: the path below `folder` of the model's only file, instead of its URL's last name; "" for none.
        private: the framework rewrites files in place, see `model.Place`.

    Raises:
        LayoutError: a URL ends in no file name, or `value` names several files or no path below the folder.
    """
    if value and len(model.files) != 1:
        raise LayoutError(f"`{value}` cannot be the name of {len(model.files)} files")
    names = [relative(value)] if value else [last_name(file.url) for file in model.files]
    return LayoutResult(tuple((Place(f"{folder}/{name}", model.link, private),) for name in names))


def last_name(url: str) -> str:
    """The last name of a URL's path as os.path.basename gives it: percent-encoding is kept, the query is not.

    Raises:
        LayoutError: the path ends in `/`, or its last name cannot be a file's.
    """
    name = split(url).path.rpartition("/")[2]
    if fault_of_name(name) or name in (".", ".."):
        raise LayoutError(f"the URL {url} does not end in a file's name")
    return name


def relative(text: str) -> str:
    """Return a value of `for:` unchanged if it is a path below the framework's folder.

    Raises:
        LayoutError: it is absolute, leads out of the folder by `..`, or has a name that no file can have.
    """
    for name in text.split("/"):
        if name in (".", "..") or fault_of_name(name):
            raise LayoutError(f"`{text}` is not a path below the framework's folder")
    return text


def refuse_value(framework: str, value: str) -> None:
    """Refuse a value for a framework that takes none.

    Raises:
        LayoutError: `value` is not empty.
    """
    if value:
        raise LayoutError(f"{framework} takes no value (`{value}`): it knows its files by the last names of their URLs")


def _torch_home(context: Context) -> str:
    return base.folder(context, context.environ.get("TORCH_HOME", posixpath.join(base.caches(context), "torch")))


def _keras_home(context: Context) -> str:
    return base.folder(context, context.environ.get("KERAS_HOME", "~/.keras"))


def _whisper_caches(context: Context) -> str:
    """$XDG_CACHE_HOME; whisper expands no `~` in it."""
    named = context.environ.get("XDG_CACHE_HOME")
    return base.folder(context, "~/.cache") if named is None else base.unexpanded(context, named)


_ROWS = (
    # torch.hub, torchvision: torch 2.13.0, torch/hub.py:184-191 (`_get_torch_home`) and :880-890
    # (`load_state_dict_from_url`: the basename of the URL's path, percent-encoding kept, or `file_name`, the value
    # here). A file that is there is loaded unchecked and never written into (:739 writes a new file and moves it).
    FlatLayout(
        NAME="torch", home=_torch_home, folder="hub/checkpoints", variable="TORCH_HOME", value=Value.BELOW_FOLDER
    ),
    # facenet-pytorch 2.6.0, models/inception_resnet_v1.py:322-331 (the folder, the URL's basename, loaded unchecked)
    # and :333-340 (torch's home, without its `hub`).
    FlatLayout(NAME="facenet", home=_torch_home, folder="checkpoints", variable="TORCH_HOME"),
    # Keras 3: keras 3.15.1, src/backend/config.py:277-284 (the home) and src/utils/file_utils.py:302-345 (`~` is
    # expanded; the name is `fname`, else the URL's basename; `cache_subdir` is `models` for applications). A file
    # whose hash does not fit is downloaded over and, when that fails, removed (:352-403).
    FlatLayout(
        NAME="keras",
        home=_keras_home,
        folder="models",
        variable="KERAS_HOME",
        value=Value.BELOW_HOME,
        rewrites=True,
    ),
    # Keras 2: tf_keras 2.21.0, src/utils/data_utils.py:269-276 (`cache_dir` is ~/.keras; it reads no variable). It
    # downloads over a file whose hash does not fit, as Keras 3 does.
    FlatLayout(
        NAME="tf_keras",
        home=lambda context: base.folder(context, "~/.keras"),
        folder="models",
        value=Value.BELOW_HOME,
        rewrites=True,
    ),
    # openai-whisper 20250625, whisper/__init__.py:130-132 ($XDG_CACHE_HOME, else ~/.cache) and :54-95 (the URL's
    # basename; each load hashes the whole file, and opens a wrong one "wb").
    FlatLayout(NAME="whisper", home=_whisper_caches, folder="whisper", variable="XDG_CACHE_HOME", rewrites=True),
    # OpenAI's CLIP: clip/clip.py at d05afc4, :120 (`download_root`, else ~/.cache/clip) and :43-72 (the URL's
    # basename; each load hashes the whole file, and opens a wrong one "wb").
    FlatLayout(NAME="clip", home=lambda context: base.folder(context, "~/.cache"), folder="clip", rewrites=True),
)
FLAT = {row.NAME: row for row in _ROWS}
