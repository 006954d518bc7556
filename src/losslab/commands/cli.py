"""What the scripts of the root have in common: options as key=value, `--help`, and one sentence for what goes wrong."""

import sys
from collections.abc import Sequence


def helping(usage: str | None) -> None:
    """With `--help`, print the usage, a script's docstring, and end."""
    if {"-h", "--help"} & set(sys.argv):
        print((usage or "").strip())
        sys.exit(0)


def arguments(usage: str | None, options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line as names, and values by key; or help. Raises ValueError for a key that is not in `options`."""
    from losslab.config.messages import among

    helping(usage)
    found: dict[str, str] = {}
    for argument in sys.argv[1:]:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise ValueError(f"{argument} is no option: options are written key=value; --help lists them")
        if equals and key not in options:
            raise ValueError(f"unknown option {key}{among(key, options)}")
        if equals:
            found[key] = value
    return [argument for argument in sys.argv[1:] if "=" not in argument], found
