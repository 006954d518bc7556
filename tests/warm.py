"""Commands of the project in processes that have imported it already.

`python train.py` and the server that it forks its workers from take ten seconds of processor time and more to import
what they need, alike in every test. Here both are forked from a process of the tests that has done so. What runs is the
command itself, in a process of its own with its own environment, folder, streams and signals.
"""

import multiprocessing
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver, util
from pathlib import Path

IMPORTED = multiprocessing.get_context("forkserver")
PRELOAD = [
    "losslab.cells.run", "losslab.cells.sweep", "losslab.planning.plan", "losslab.cells.scoring",
    "losslab.launchers.status", "losslab.results.write_tables", "losslab.report.page", "losslab.training.loop",
    "losslab.evaluation.transformers_engine", "transformers.generation.utils",
]  # fmt: skip
IMPORTED.set_forkserver_preload(PRELOAD)
SERVER = "from multiprocessing.forkserver import main; "  # how Python starts the server that workers are forked from


class Popen:
    """As subprocess.Popen, as far as the tests use it, of a command `[python, script or -m losslab, ...]`.

    Both outputs go to files whose text `communicate` returns, or to the end of the one file `output`.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        output: Path | None = None,
    ) -> None:
        assert command[0] == sys.executable, command
        self.args = command
        self._files = [output, output] if output else [_temporary(), _temporary()]
        environment = dict(os.environ if env is None else env)
        self._process = IMPORTED.Process(
            target=_become,
            args=(list(command[1:]), str(cwd), environment, [str(path) for path in self._files], start_new_session),
        )
        self._process.start()
        self.pid: int = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, err = (path.read_text() for path in self._files)
        for path in self._files:
            path.unlink()
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def in_session(leader: int) -> list[int]:
    """The processes of a session: a run's engines lead groups of their own, which a signal to its group misses."""
    listed = subprocess.run(["ps", "-o", "pid=", "-s", str(leader)], capture_output=True, text=True).stdout
    return [int(word) for word in listed.split()]


def signal_session(leader: int, number: int) -> None:
    for process in in_session(leader):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _temporary() -> Path:
    descriptor, name = tempfile.mkstemp(prefix="losslab-test-")
    os.close(descriptor)
    return Path(name)


def run(command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    """As subprocess.run with text output."""
    process = Popen(command, cwd, env)
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


def _become(arguments: list[str], folder: str, environment: dict[str, str], files: list[str], session: bool) -> None:
    """Turn into the command."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the server may be one that a training has started
    if session:
        os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in ((sys.stdout, files[0]), (sys.stderr, files[1])):
        stream.flush()
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream.fileno())
    _wait_as_server()
    program, *rest = arguments
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if program == "-m":
        sys.path.insert(0, folder)
        module, *rest = rest
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(program).parent))
        sys.argv = [program, *rest]
        runpy.run_path(program, run_name="__main__")


def _wait_as_server() -> None:
    """Fork now, before there are threads, the process that turns into the command's own fork server when it asks."""
    here, there = socket.socketpair()
    pid = os.fork()
    if not pid:
        here.close()
        _serve(there)
    there.close()
    start = util.spawnv_passfds

    def spawn(path: bytes, args: Sequence[str], descriptors: Sequence[int]) -> int:
        if not args[-1].startswith(SERVER):
            return start(path, args, descriptors)
        util.spawnv_passfds = start  # a second one is an ordinary one
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        call = pickle.dumps((args[-1].removeprefix(SERVER), os.getcwd(), dict(os.environ), blocked))
        socket.send_fds(here, [call], list(descriptors))
        here.close()
        return pid

    util.spawnv_passfds = spawn  # type: ignore[assignment]


def _serve(asked: socket.socket) -> None:
    """Wait for the call `main(listener, alive, preload, **data)` and make it, with the descriptors as they are here."""
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        message, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 8)
        asked.close()
        if message:  # else the command has ended without a server
            call, folder, environment, blocked = pickle.loads(message)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            exec(
                call,
                {"main": lambda listener, alive, *modules, **data: forkserver.main(*descriptors, *modules, **data)},
            )
        status = 0
    except SystemExit:
        status = 0
    finally:
        os._exit(status)
