"""Find places that two files cannot both have: one path with two contents, or a file where a folder must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from orchestrator.text import keypath, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.errors import Problem
    from orchestrator.model import Wanted

T = TypeVar("T")

OTHER_DIGEST = "has another checksum"
ONLY_CASE = "differs from it only in case"
NO_FOLDER = "would have to be a folder"
BELOW = "lies below it"


def find_clashes(claims: Iterable[tuple[str, str, T]]) -> list[tuple[T, T, str, str]]:
    """Find the clashes among claims to paths.

    The same path with the same digest is no clash. Paths that differ only in case, or in how an accent is encoded,
    clash: some file systems take them for one.

    Args:
        claims: (path, sha256, claimant) of each file; all paths absolute, or all relative to one folder.

    Returns:
        (first claimant, second claimant, the second's path, why): "why" is one of the four phrases above.
    """
    taken: dict[str, tuple[int, str, str, T]] = {}
    above: dict[str, tuple[int, str, T]] = {}
    clashes: list[tuple[T, T, str, str]] = []
    for number, (path, sha256, who) in enumerate(claims):
        key = _case_folded(path)
        first = taken.setdefault(key, (number, path, sha256, who))
        if first[0] != number:
            if first[1] != path:
                clashes.append((first[3], who, path, ONLY_CASE))
            elif first[2] != sha256:
                clashes.append((first[3], who, path, OTHER_DIGEST))
            continue
        folder = key.rpartition("/")[0]
        while folder and folder not in above:
            above[folder] = (number, path, who)
            folder = folder.rpartition("/")[0]
    for key in taken.keys() & above.keys():
        file, child = taken[key], above[key]
        if file[0] < child[0]:
            clashes.append((file[3], child[2], child[1], NO_FOLDER))
        else:
            clashes.append((child[2], file[3], file[1], BELOW))
    return clashes


def may_clash(paths: Iterable[str]) -> bool:
    """Whether `find_clashes` may find any among claims to these paths, which takes a fifth of its memory to say."""
    taken: set[str] = set()
    above: set[str] = set()
    for path in paths:
        key = _case_folded(path)
        if key in taken:
            return True
        taken.add(key)
        folder = key.rpartition("/")[0]
        while folder and folder not in above:
            above.add(folder)
            folder = folder.rpartition("/")[0]
    return not taken.isdisjoint(above)


def _case_folded(path: str) -> str:
    """`path` as a case-insensitive file system compares it; the same object where possible, as copies cost memory."""
    if not path.isascii():
        import unicodedata  # imported here: most paths are ASCII

        return unicodedata.normalize("NFC", path.casefold())
    return path if path.islower() else path.lower()


def message(path: str, why: str, first: str) -> str:
    """The message for a clash: `path` is the second's place, `first` names the file that already has it."""
    return f"the destination `{shown(path)}` is taken: the file of `{shown(first)}` {why}"


def clashes(all_wanted: Sequence[Wanted]) -> tuple[tuple[Wanted, Wanted, str], ...]:
    """Find the pairs of files that cannot both have their places.

    Returns:
        (first file, second file, the second's absolute path) of each clash.
    """
    return tuple((first, second, path) for first, second, path, _ in _place_clashes(all_wanted))


def clash_problems(all_wanted: Sequence[Wanted], texts: Mapping[str, str]) -> tuple[Problem, ...]:
    """Find the same clashes as problems, each reported at the second file.

    Args:
        all_wanted: the files of all manifests of a run.
        texts: the manifests' texts by their absolute paths, to find the lines.
    """
    from orchestrator.manifest.positions import find_positions  # only an error needs lines

    problems = []
    lines = {}
    for first, second, path, why in _place_clashes(all_wanted):
        file = second.manifest
        if file not in lines:
            lines[file] = find_positions(texts[file])
        at = keypath(keypath("models", second.model), "to")
        who = first.model if first.manifest == file else f"{first.model} in {first.manifest}"
        problems.append(lines[file].problem(file, at, message(path, why, who)))
    return tuple(sorted(problems, key=lambda p: (p.file, p.line, p.path, p.message)))


def _place_clashes(all_wanted: Sequence[Wanted]) -> list[tuple[Wanted, Wanted, str, str]]:
    if not may_clash(place.path for w in all_wanted for place in w.places):
        return []
    return find_clashes((place.path, w.key, w) for w in all_wanted for place in w.places)
