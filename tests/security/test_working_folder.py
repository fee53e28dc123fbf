"""What lies in the working folder is not run by `python -m orchestrator`."""

from __future__ import annotations

from pathlib import Path

from tests.orch import Orch


def test_no_module_of_the_working_folder_is_imported(tmp_path: Path) -> None:
    for name in ("click", "yaml", "aria2c", "psutil", "msgspec", "gc", "hashlib", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / f'ran-{name}')!r}, 'w')\n")
    assert Orch(tmp_path).run("doctor").code == 0
    assert not list(tmp_path.glob("ran-*"))
