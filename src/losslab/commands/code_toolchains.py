"""List which tools for running code that models write are installed, and which are missing.

losslab code-toolchains
"""

from losslab.commands.cli import parse
from losslab.programs.languages import LANGUAGES, without
from losslab.programs.sandbox import refusal


def main(arguments: list[str]) -> None:
    names, _ = parse(arguments, [])
    if names:
        raise ValueError(f"losslab code-toolchains takes no argument: leave out {names[0]}")
    reason = refusal()
    print(f"{'isolation:':12} {f'missing: {reason} (apt-get install bubblewrap)' if reason else 'installed'}")
    for name, language in LANGUAGES.items():
        print(f"{language.title + ':':12} {f'missing: {sentence}' if (sentence := without(name)) else 'installed'}")
