"""Lets the tests here import ``adapters`` and ``fill`` whatever pytest's import mode and directory."""

import sys
from pathlib import Path

_HERE = str(Path(__file__).parent)
if _HERE not in sys.path:
    sys.path.insert(0, _HERE)
