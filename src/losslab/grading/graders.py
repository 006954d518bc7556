"""Grades responses in killable processes, while the caller continues to generate.

Most verdicts are cheap, but a few may never terminate, so whatever plain text does not decide runs in a worker process:
it imports sympy and FLINT only, takes one job at a time, and is killed and replaced when the job overruns its limit. An
answer that is code runs in its own sandbox, several at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from types import TracebackType

from losslab.config.choices import Rules
from losslab.grading import corrected, corrected_text, exact_match, official, official_text, options
from losslab.programs import assembly, stack_language
from losslab.programs.languages import Toolchains

SECONDS = 3.0  # of a rule on one answer
# Rules whose official and corrected verdicts read the same gold answer.
ONE_GOLD = frozenset({Rules.code, Rules.stack_program, Rules.exact_match, *options.PUBLISHED})
START_SECONDS = 120.0  # a cold file system can take this long over the first import of sympy


@dataclass(frozen=True)
class Verdict:
    """Both verdicts on one response; a rule that ran over its time or memory says wrong, and `timed_out` is true."""

    extracted: str
    official: bool
    corrected: bool
    timed_out: bool


class Grader:
    """Grades in `workers` processes; each rule has `seconds` per answer from its start (never counted while it queues)
    and `memory_mb` of address space (on Linux; macOS does not enforce it).

    Code has the limits of its benchmark's protocol in place of these. With `unsafe_code`, it is not isolated.

    Equal (rules, answer, gold) are graded once. Use as a context manager: leaving it waits for what was submitted.
    """

    def __init__(
        self, workers: int, seconds: float = SECONDS, memory_mb: int = 2048, unsafe_code: bool = False
    ) -> None:
        if workers < 1 or seconds <= 0 or memory_mb < 256:
            raise ValueError("a Grader needs at least one worker, a positive time limit and at least 256 MB of memory")
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grader")
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(_Worker(seconds, memory_mb))
        self._workers = workers
        self._verdicts: dict[tuple[str, ...], Future[Verdict]] = {}
        self._unsafe_code = unsafe_code
        self._toolchains: Toolchains | None = None  # made for the first answer that is code

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=kind is not None)
        for _ in range(self._workers):
            self._idle.get().stop()

    def submit(self, rules: str, response: str, gold: str, truth: str | None = None) -> Future[Verdict]:
        """Returns at once with the verdict to come.

        Args:
            rules: how the benchmark's answers are read, one of `Rules`; `exact_match` takes a gold with a right answer
                in each line, and its official and corrected verdicts are the same; `code` takes a problem in the format
                of `programs.assembly`, `stack_program` tests in the format of `programs.stack_language`, and the rules
                of `options` a gold answer in the format of that module.
            response: the whole response of the model.
            gold: the gold answer as `official_text.gold` gives it.
            truth: the gold answer as `corrected_text.gold` gives it, where that is known; else the gold, repaired where
                its damage is known.

        Raises:
            ValueError: the rules are `code`, and this machine cannot isolate a process.
        """
        if rules == Rules.code:
            return self._submit_code(response, gold)
        if rules == Rules.stack_program:
            right = stack_language.passes(response.strip(), gold)
            return _settled(Verdict(response.strip(), right, right, timed_out=False))
        if rules == Rules.exact_match:
            extracted = exact_match.extract(response)
            right = exact_match.equal(extracted, gold.splitlines())
            return _settled(Verdict(extracted, right, right, timed_out=False))
        if rules in options.PUBLISHED:
            read = options.extract(rules, response), options.answer_of(rules, response)
            if (rules, *read, gold) not in self._verdicts:
                asked = (rules, read[0], gold), ("option", read[1], gold)
                self._verdicts[rules, *read, gold] = self._threads.submit(self._grade, *asked)
            return self._verdicts[rules, *read, gold]
        extracted = official_text.extract(response, rules, gold)
        answer = corrected_text.extract(response)
        if truth is None:
            truth = corrected_text.repaired(rules, gold)
        key = (rules, extracted, gold, answer, truth)
        if key not in self._verdicts:
            by_official = official.equal_as_text(extracted, gold)
            by_corrected = corrected.equal_as_text(answer, truth)
            if by_official is None or by_corrected is None:
                self._verdicts[key] = self._threads.submit(
                    self._grade, ("official", extracted, gold), ("corrected", answer, truth)
                )
            else:
                self._verdicts[key] = _settled(Verdict(extracted, by_official, by_corrected, timed_out=False))
        return self._verdicts[key]

    def _submit_code(self, response: str, gold: str) -> Future[Verdict]:
        key = (Rules.code, response, gold)
        if key not in self._verdicts:
            self._toolchains = self._toolchains or Toolchains(isolated=not self._unsafe_code)
            self._verdicts[key] = self._threads.submit(self._run, self._toolchains, response, gold)
        return self._verdicts[key]

    def _run(self, toolchains: Toolchains, response: str, gold: str) -> Verdict:
        told = assembly.verdict(toolchains, response, gold)
        return Verdict(told.completion, told.official, told.corrected, told.timed_out)

    def _grade(self, official: tuple[str, str, str], corrected: tuple[str, str, str]) -> Verdict:
        """Both verdicts of a worker, each asked for by a rule, an answer and a gold."""
        worker = self._idle.get()
        try:
            verdicts = worker.ask(*official), worker.ask(*corrected)
        finally:
            self._idle.put(worker)
        return Verdict(official[1], bool(verdicts[0]), bool(verdicts[1]), timed_out=None in verdicts)


def _settled(verdict: Verdict) -> Future[Verdict]:
    done: Future[Verdict] = Future()
    done.set_result(verdict)
    return done


class _Worker:
    """One process that answers one question at a time; started at the first question, and again after each overrun."""

    def __init__(self, seconds: float, memory_mb: int) -> None:
        self.seconds, self.memory_mb = seconds, memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None

    def ask(self, rule: str, answer: str, gold: str) -> bool | None:
        """The verdict of a rule, or None where it ran over its limits."""
        connection = self.connection or self._start()
        try:
            connection.send_bytes(json.dumps([rule, answer, gold]).encode())
            if connection.poll(self.seconds):
                return json.loads(connection.recv_bytes())
        except (EOFError, OSError):  # the process died of its job
            pass
        self.stop()
        return None

    def _start(self) -> Connection:
        # A plain process, not one of multiprocessing: that would import the main module, and torch with it.
        self.connection, child_end = Pipe()
        arguments = f"{child_end.fileno()}, {self.seconds}, {self.memory_mb}"
        command = f"from losslab.grading.graders import _serve; _serve({arguments})"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", command],
            pass_fds=[child_end.fileno()], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the parent, which closes the connection
        )  # fmt: skip
        child_end.close()
        connection = self.connection
        try:
            if connection.poll(START_SECONDS):
                connection.recv_bytes()
                return connection
        except (EOFError, OSError):  # it died: its own message stands on stderr
            pass
        self.stop()
        raise RuntimeError("a grading process did not start; is there enough memory for it?")

    def stop(self) -> None:
        if self.connection is not None and self.process is not None:
            self.process.kill()
            self.process.wait()
            self.connection.close()
        self.connection = self.process = None


def _serve(descriptor: int, seconds: float, memory_mb: int) -> None:
    """The life of a grading process: one question after the other until the other end closes."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    except (ValueError, OSError):  # macOS knows the limit and refuses it
        pass
    rules = {"official": official.equal, "corrected": corrected.equal, "option": options.equal, **options.PUBLISHED}
    for rule in rules.values():
        rule("x+1", "1+x")  # pays for all imports and first uses
    connection = Connection(descriptor)
    with suppress(EOFError, OSError):  # the other end has closed, or its process was killed
        connection.send_bytes(b"null")
        while True:
            rule, answer, gold = json.loads(connection.recv_bytes())
            # The parent kills first; the unhandled alarm is for a parent that has died.
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)
            try:
                verdict: bool | None = rules[rule](answer, gold)
            except MemoryError:
                verdict = None
            except Exception:  # an answer that breaks a rule in a new way is wrong, and stops nothing
                verdict = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send_bytes(json.dumps(verdict).encode())
