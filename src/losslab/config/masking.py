"""Secrets that no record may contain: values of environment variables, and files, whose names mark them as secret."""

import json
import os
from fnmatch import fnmatch
from functools import cache
from pathlib import PurePath

VARIABLES = ("*KEY", "*TOKEN", "*SECRET", "*PASSWORD")  # environment variables whose values are secret
SHORTEST = 8  # characters; shorter values are not masked, since they occur in harmless text
FILES = (
    ".env*", "*.env", "id_*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "credentials*", "*secret*",
    ".netrc", "_netrc", ".npmrc", ".pypirc", ".htpasswd", ".git-credentials",
)  # fmt: skip


def masked(text: str) -> str:
    """A text with each value of a secret environment variable replaced by `<NAME>`, also in JSON-quoted form."""
    for value, name in _values(tuple(sorted(item for item in os.environ.items() if _is_secret(item[0])))):
        text = text.replace(value, f"<{name}>")
    return text


def holds_secrets(path: str) -> bool:
    """Whether a file's name marks it as secret. Python source never is."""
    name = PurePath(path).name.lower()
    return not name.endswith(".py") and any(fnmatch(name, pattern) for pattern in FILES)


def _is_secret(name: str) -> bool:
    return any(fnmatch(name.upper(), pattern) for pattern in VARIABLES)


@cache
def _values(variables: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """The masked values with the names of their variables, longest first, since one may be the prefix of another."""
    names = dict[str, str]()
    for name, value in variables:
        for line in (value, *value.splitlines()):
            for text in (line, json.dumps(line)[1:-1], json.dumps(line, ensure_ascii=False)[1:-1]):
                if len(text) >= SHORTEST:
                    names[text] = name
    return sorted(names.items(), key=lambda item: -len(item[0]))
