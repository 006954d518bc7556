"""Runs cases: each in a process forked from this one, which has imported everything, in a folder of its own."""

import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hostile.case import Case, Ending, Verdict, contents, judge

POLL_SECONDS = 0.005
LARGEST = 512 << 20  # bytes of a file that a case may write


def preload() -> None:
    """Import what programs would, so that a forked one starts at once. Nothing here may start a thread."""
    import losslab.cells.run
    import losslab.cells.sampling
    import losslab.cells.sweep
    import losslab.hub.push
    import losslab.launchers.status
    import losslab.planning.plan
    import losslab.report.page
    import losslab.results.compare
    import losslab.results.write_tables  # noqa: F401


def run(case: Case, folder: Path) -> Verdict:
    """Run a case in a folder, which is made and removed, and judge it."""
    work = folder / "work"
    work.mkdir(parents=True)
    try:
        case.prepare(work)
        before = contents(work)
        return judge(case, end_of(case, work, folder.with_name(folder.name + ".output")), work, before)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_all(cases: list[Case], folder: Path) -> Iterator[tuple[Case, Verdict]]:
    for number, case in enumerate(cases):
        yield case, run(case, folder / f"{number:05d}")


def end_of(case: Case, work: Path, output: Path) -> Ending:
    """Fork, run, and wait for the end; what is still there then is killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    began, process = time.monotonic(), os.fork()
    if process == 0:
        _child(case, work, output)
    status = None
    while status is None and time.monotonic() - began < case.seconds:
        done, code = os.waitpid(process, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        else:
            time.sleep(POLL_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if status is None:
        os.waitpid(process, 0)
    text = output.read_text(encoding="utf-8", errors="replace")
    output.unlink()
    return Ending(status, text)


def _child(case: Case, work: Path, output: Path) -> None:
    """Run the case as the program of a process of its own; never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(work)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        # Whoever called may have streams of its own, as pytest has.
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, LARGEST))
        case.run()
        code = 0
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
