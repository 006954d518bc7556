"""A case, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OUTCOMES = ("sentence", "right", "unnamed", "swallowed", "traceback", "hang", "lost", "escaped")
GOOD = ("sentence", "right")
CODE = "code-was-run"  # a file that every payload makes, in the case's folder or the one above
USAGE = (0, 1, 2, 75, 130)  # exit statuses of a program that ended by itself


def accept(folder: Path, output: str) -> str | None:
    return None


@dataclass(frozen=True)
class Case:
    """An input and the program that gets it. `prepare` writes the input into the working folder, an empty one.

    `run` is called there, in a process of its own, and ends it as the program ends. A failure must name one of
    `names`. With `refuse`, success is wrong. `verify(folder, output)` looks at what is there afterwards, and returns a
    complaint that begins with an outcome, as in "lost: the good cell's row".
    """

    kind: str
    title: str
    run: Callable[[], None]
    names: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda folder: None
    refuse: bool = False
    verify: Callable[[Path, str], str | None] = accept
    writes: tuple[str, ...] = ("results",)  # what may appear in the working folder
    seconds: float = 300.0  # far from what any case takes on a busy machine


@dataclass(frozen=True)
class Ending:
    """How a case's process ended. `status` is None where it had to be killed, and negative after a signal."""

    status: int | None
    output: str


@dataclass(frozen=True)
class Verdict:
    outcome: str
    reason: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in GOOD


def contents(folder: Path) -> dict[str, bytes | None]:
    """The files below a folder with their content, folders with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }


def judge(case: Case, ending: Ending, work: Path, before: dict[str, bytes | None]) -> Verdict:
    """What became of a case, by the one rule; `before` are the contents of its folder when it began."""
    if ending.status is None:
        return Verdict("hang", f"no end after {case.seconds:g} seconds")
    if list(work.parent.glob(f"**/{CODE}*")):
        return Verdict("escaped", "code of the input was run")
    if strangers := [path.name for path in work.parent.iterdir() if path != work]:
        return Verdict("escaped", f"{strangers[0]} was written beside the folder")
    after = contents(work)
    for name in after.keys() - before.keys():
        if Path(name).parts[0] not in case.writes:
            return Verdict("escaped", f"{name} was written outside of results")
    if "\x1b" in ending.output:
        return Verdict("escaped", "an escape sequence reached the terminal")
    if "Traceback (most recent call last)" in ending.output or ending.status not in USAGE:
        shown = ending.output[max(ending.output.find("Traceback"), 0) :].strip()[-1500:]
        return Verdict("traceback", f"exit status {ending.status}: {shown}")
    for name in before.keys() - {name for name in before if Path(name).parts[0] in case.writes}:
        if after.get(name) != before[name]:
            return Verdict("lost", f"the input {name} was changed")
    if complaint := case.verify(work, ending.output):
        outcome, _, reason = complaint.partition(": ")
        assert outcome in OUTCOMES, complaint
        return Verdict(outcome, reason)
    if ending.status == 0:
        return Verdict("swallowed", "it was taken for good") if case.refuse else Verdict("right")
    if not any(name in sentences(ending.output) for name in case.names):
        return Verdict("unnamed", f"{case.names} are not in: {ending.output.strip()[-400:]}")
    return Verdict("sentence")


def sentences(output: str) -> str:
    """The lines of an output that say what went wrong."""
    marks = ("error: ", "failed: ", "is set aside as ", "warning: ", "cannot be read")
    return "\n".join(line for line in output.splitlines() if any(mark in line for mark in marks))
