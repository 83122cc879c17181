"""What this program calls itself when it says hello."""

from __future__ import annotations

import sys

# The root package names the client's classes for type checkers, and transport may not import the client: so it is
# asked for its version without an import. It is loaded, or this file would not be.
_ROOT = sys.modules[__name__.partition(".")[0]]

SOFTWARE = f"callboard/{getattr(_ROOT, '__version__', '0')} python/{'.'.join(map(str, sys.version_info[:3]))}"
