"""List what is here, and what is missing, to run the code that models write.

losslab code-toolchains
"""

from losslab.commands.cli import parse
from losslab.programs.languages import LANGUAGES, without
from losslab.programs.sandbox import refusal


def main(arguments: list[str]) -> None:
    names, _ = parse(arguments, [])
    if names:
        raise ValueError(f"losslab code-toolchains takes no name, and {names[0]} is one: leave it out")
    reason = refusal()
    print(f"{'isolation:':12} {f'missing: {reason} (apt-get install bubblewrap)' if reason else 'here'}")
    for name, language in LANGUAGES.items():
        print(f"{language.title + ':':12} {f'missing: {sentence}' if (sentence := without(name)) else 'here'}")
