"""What the scripts of the root have in common: options as key=value, `--help`, and one sentence for what goes wrong."""

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

INTERRUPTED = 130  # what a shell calls a program that Ctrl-C ended


@contextmanager
def refusing(*failures: type[Exception]) -> Iterator[None]:
    """End the program on an error: a user's mistake in one sentence and with status 2, Ctrl-C with 130, others with 1.

    Of `failures` too the sentence says enough. The scripts import everything else inside of it, since Ctrl-C may come
    while they do; and Hydra's callbacks are in it, since Hydra would turn what they raise into a warning.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except failures as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from losslab.messages import of_the_disk, sentence

        if isinstance(error, HydraException | OmegaConfBaseException | ValueError):
            print(f"error: {sentence(error)}", file=sys.stderr)
        elif isinstance(error, OSError):
            print(f"error: {of_the_disk(error)}", file=sys.stderr)
        else:
            traceback.print_exc()
            sys.exit(1)
        sys.exit(2)


def helping(usage: str | None) -> None:
    """With `--help`, print the usage, a script's docstring, and end."""
    if {"-h", "--help"} & set(sys.argv):
        print((usage or "").strip())
        sys.exit(0)


def arguments(usage: str | None, options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line as names, and values by key; or help. Raises ValueError for a key that is not in `options`."""
    from losslab.messages import among

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
