"""Which version of the grader gave a verdict."""

import hashlib
import json
from functools import cache
from pathlib import Path

from losslab.files.python_source import syntax

OF_FILES = ("regrade.py", "version.py")  # which decide no verdict


@cache
def grader_version() -> str:
    """A hash of the code that decides verdicts, whatever its layout and comments are."""
    package = Path(__file__).parents[1]
    files = sorted(file for name in ("grading", "programs") for file in (package / name).glob("*.py"))
    code = [syntax(file.read_text(encoding="utf-8")) for file in files if file.name not in OF_FILES]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]
