"""Write the catalogue of messages anew: `python -m tests.messages --write`; without it, print the whole."""

from __future__ import annotations

import sys

from tests.messages.catalogue import HERE, PAGES

for name, page in PAGES.items():
    if "--write" in sys.argv:
        (HERE / name).write_text(page(), "utf-8")
    else:
        print(page())
