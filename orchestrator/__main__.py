"""`python -m orchestrator` is `orch`, and imports nothing from the working folder."""

from __future__ import annotations

import os
import sys

try:
    # `python -m` puts the working folder first, where anybody may have put a click.py; as root that would be root's.
    # runpy itself was looked for there before this line: in cron only `orch`, or `python -P -m orchestrator`.
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]
except OSError:  # the working folder is gone, and nothing can be imported from it
    pass

from orchestrator.cli import main

sys.exit(main())
