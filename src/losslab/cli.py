"""What the scripts of the root have in common: options as key=value, `--help`, and one sentence for what goes wrong."""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)  # of a disk that takes no more, or never did
INTERRUPTED = 130  # what a shell calls a program that Ctrl-C ended


@contextmanager
def told() -> Iterator[None]:
    """End the program with one sentence on a user's mistake (status 2), on a failure (1), and on Ctrl-C (130).

    The scripts import everything else inside of it, since Ctrl-C may come while they do.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from losslab.messages import sentence

        mistake = isinstance(error, HydraException | OmegaConfBaseException | ValueError | OSError)
        if not mistake and not isinstance(error, RuntimeError):
            raise
        text = sentence(error) if mistake else str(error)
        if isinstance(error, OSError) and error.errno in FULL:
            text = f"{error.filename or 'results'}: {error.strerror}: make room there, or set machine.results"
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2 if mistake else 1)


def arguments(usage: str | None, options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line as names, and values by key. `--help` prints the usage, the script's docstring, and ends.

    Raises ValueError for a key that is not among `options`.
    """
    from losslab.messages import among

    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print((usage or "").strip())
        sys.exit(0)
    found: dict[str, str] = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise ValueError(f"{argument} is no option: options are written key=value; --help lists them")
        if equals and key not in options:
            raise ValueError(f"unknown option {key}{among(key, options)}")
        if equals:
            found[key] = value
    return [argument for argument in given if "=" not in argument], found
