"""Build orch.pyz by shiv (`make dist`), with a beginning of its own: a user without a home is told what to type.

The arguments are shiv's, whose own beginning raises there. It unpacks below ~/.shiv, or SHIV_ROOT, before any of orch's
code can run.
"""

from __future__ import annotations

from shiv import builder, cli

builder.MAIN_TEMPLATE = """\
import os, sys
if not (os.environ.get("SHIV_ROOT") or os.path.isabs(os.path.expanduser("~"))):
    print("error: no home: HOME is not set, and the user has no entry in /etc/passwd", file=sys.stderr)
    print("hint: export HOME=/var/lib/orch, or SHIV_ROOT=/var/tmp/orch: orch.pyz unpacks itself there", file=sys.stderr)
    sys.exit(2)
import {module}
{module}.{fn}()
"""

if __name__ == "__main__":
    cli.main()
