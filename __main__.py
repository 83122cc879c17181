"""``python -m callboard`` is ``callboard``."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":  # not at import: processes started by multiprocessing import the main module again
    sys.exit(main())
