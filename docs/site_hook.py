"""The site's hook (mkdocs.yml): README, CHANGELOG and the like are pages of it, and so are files that pages link to."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HOUSE = Path(__file__).resolve().parents[1]
# Pages that are not in docs/, each with its name on the site.
PAGES = {
    "README.md": "index.md",
    **{name: name for name in ("README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md")},
    "SECURITY.md": "reporting.md",  # docs/security.md is another page
    "benchmarks/RESULTS.md": "benchmarks/RESULTS.md",
}
FOLDERS = ("contrib", "manifests")  # files that pages link to; contrib has no page of its own
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]*)")


def on_files(files: Files, config: Any) -> Files:
    """Add what is not in docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(HOUSE / name)))
    for folder in FOLDERS:
        for path in sorted((HOUSE / folder).rglob("*")):
            if path.is_file():
                files.append(File.generated(config, path.relative_to(HOUSE).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead a page's links to where their files are on the site."""
    here = next((name for name, at in PAGES.items() if at == page.file.src_uri), f"docs/{page.file.src_uri}")
    folder = posixpath.dirname(page.file.src_uri)

    def led(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[1]))
        target = PAGES.get(target) or target.removeprefix("docs/")
        return posixpath.relpath(target, folder or ".") if link[1] else ""

    return _LINK.sub(led, markdown)
