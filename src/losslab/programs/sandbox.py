"""Runs untrusted programs in a sandbox.

Bubblewrap gives a program its own namespaces: no network, no other processes, no files except the system's programs
(read only) and a scratch folder in memory of limited size. Limits of the kernel apply to each of its processes, a
filter refuses system calls (`losslab.programs.system_calls`), and this process watches time, output and the memory of
all together. The namespace ends with its first process, and that process ends with the thread that started it, so
nothing outlives a run.

The kernel does not limit the processes of root, so for root every run has its own user id; for others a user namespace
counts them.
"""

import itertools
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from losslab.programs.system_calls import filter_program

SCRATCH = "/scratch"
# Of /etc, what programs and compilers read; nothing there is secret.
SYSTEM = ("alternatives", "ld.so.cache", "mono", "php", "java-17-openjdk", "java-21-openjdk")
NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
OUT_OF_TIME = (128 + signal.SIGXCPU, 128 + signal.SIGKILL)  # statuses of a process whose processor time is used up
WATCH_SECONDS = 0.2  # between two looks at the memory of a run
_runs = itertools.count()


@dataclass(frozen=True)
class Limits:
    seconds: float = 10.0  # of processor time of each process, which a busy machine does not shorten
    clock: float = 60.0  # seconds from the start to the end
    memory_mb: int = 2048  # of all processes together, and what each of them may write to
    processes: int = 96  # and threads; of an isolated run alone
    output_bytes: int = 1 << 20  # of standard output and standard error together
    disk_mb: int = 128  # of the scratch folder, and of a file


@dataclass(frozen=True)
class Run:
    """How a program ended."""

    status: int  # the exit status, as a shell gives it
    output: str
    errors: str
    stopped: str = ""  # the limit that ended it: `time`, `memory` or `output`


def check_runnable(unsafe_code: bool, folders: tuple[tuple[str, Path | None], ...] = ()) -> None:
    """Raise ValueError where this machine cannot isolate a process that sees these folders, or, with `unsafe_code`,
    cannot limit one.
    """
    if unsafe_code:
        check_limits()
    elif reason := refusal(folders):
        raise ValueError(no_isolation(reason))


class Sandbox:
    """Runs commands on files. Safe to use from several threads at once.

    Args:
        folders: further readable folders, by mount point; None hides whatever is already mounted there.
        isolated: False runs it as a plain process of this user, with limits alone, none of them on the number of its
            processes; for machines without bubblewrap.

    Raises:
        ValueError: this machine cannot isolate a process, or limit one.
    """

    def __init__(self, folders: Mapping[str, Path | None] | None = None, isolated: bool = True) -> None:
        self.folders = tuple((folders or {}).items())
        self.isolated = isolated
        check_runnable(not isolated, self.folders)

    def run(
        self,
        command: Sequence[str],
        files: Mapping[str, str],
        limits: Limits,
        variables: Mapping[str, str] | None = None,
    ) -> Run:
        """Run a command in a scratch folder that holds `files`, by name, and nothing else.

        Args:
            command: the program and its arguments; a path or a name on the system's PATH.
            variables: environment variables in addition to PATH, HOME, TMPDIR and the locale.
        """
        with ExitStack() as stack:
            if self.isolated:
                arguments, descriptors = _isolated(self.folders, files, limits, stack)
                folder = None
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
                for name, text in files.items():
                    (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")
                arguments, descriptors = [], []
            home = str(folder or SCRATCH)
            process = subprocess.Popen(
                [*arguments, *_limited(limits, self.isolated), *command],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
                env=_environment(home) | dict(variables or {}), pass_fds=descriptors, start_new_session=True,
            )  # fmt: skip
            try:
                return _watched(process, limits)
            finally:
                _end(process)


def no_isolation(reason: str) -> str:
    return (
        f"programs that a model writes cannot be isolated here ({reason}): install bubblewrap, or run them unprotected "
        "with machine.unsafe_code=true"
    )


def check_limits() -> None:
    """Raise ValueError where a program cannot be limited, which even one that is not isolated must be."""
    if shutil.which("prlimit") is None:
        raise ValueError(
            "programs that a model writes cannot be limited here, since the program prlimit is missing: install "
            "util-linux, or grade them on a machine with Linux"
        )


@cache
def refusal(folders: tuple[tuple[str, Path | None], ...] = ()) -> str:
    """Why this machine cannot isolate a process, in a few words; empty where it can."""
    if not sys.platform.startswith("linux"):
        return "isolation needs Linux"
    for program in ("bwrap", "prlimit", "setpriv"):
        if shutil.which(program) is None:
            return f"the program {program} is missing"
    with ExitStack() as stack:
        arguments, descriptors = _isolated(folders, {}, Limits(), stack)
        run = subprocess.run(
            [*arguments, *_limited(Limits()), "true"], pass_fds=descriptors, capture_output=True, text=True,
            env=_environment(SCRATCH), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    return "" if run.returncode == 0 else (run.stderr.strip().split("\n")[-1] or f"bwrap ended with {run.returncode}")


def _environment(home: str) -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"}


def _is_root() -> bool:
    """Whether this is the machine's root, whose processes no limit counts; a container's own root has a limit."""
    return os.getuid() == 0 and Path("/proc/self/uid_map").read_text().split()[1:] == ["0", "4294967295"]


def _isolated(
    folders: Sequence[tuple[str, Path | None]], files: Mapping[str, str], limits: Limits, stack: ExitStack
) -> tuple[list[str], list[int]]:
    """The command line of bubblewrap, and the descriptors that it reads."""
    arguments = ["bwrap", *NAMESPACES, "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    arguments += ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            arguments += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            arguments += ["--ro-bind", name, name]
    for place, folder in [*((f"/etc/{name}", Path("/etc") / name) for name in SYSTEM), *folders]:
        if folder is None:
            arguments += ["--size", "4096", "--tmpfs", place, "--remount-ro", place]
        elif folder.exists():
            parent = os.path.dirname(place)  # which bubblewrap would make for its user alone
            arguments += [
                *(["--perms", "0755", "--dir", parent] if parent != "/" else []),
                "--ro-bind",
                str(folder),
                place,
            ]
    size = str(limits.disk_mb << 20)
    arguments += ["--proc", "/proc", "--dev", "/dev", "--size", "4096", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    arguments += ["--perms", "0777", "--size", size, "--tmpfs", SCRATCH, "--symlink", SCRATCH, "/tmp"]
    descriptors = []
    for name, text in files.items():
        descriptors.append(_in_memory(name, text.encode("utf-8", "surrogatepass"), stack))
        arguments += ["--perms", "0644", "--file", str(descriptors[-1]), f"{SCRATCH}/{name}"]
    arguments += ["--remount-ro", "/", "--chdir", SCRATCH]
    if (program := filter_program()) is not None:
        descriptors.append(_in_memory("filter", program, stack))
        arguments += ["--seccomp", str(descriptors[-1])]
    if not _is_root():
        return [*arguments, "--unshare-user", "--uid", "65534", "--gid", "65534", "--"], descriptors
    user = str((1 << 30) + (os.getpid() << 8) % (1 << 30) + next(_runs) % 256)
    capabilities = [word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")]
    drop = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    return [*arguments, "--cap-drop", "ALL", *capabilities, "--", *drop, "--no-new-privs"], descriptors


def _in_memory(name: str, content: bytes, stack: ExitStack) -> int:
    """A descriptor from which a child can read the content."""
    descriptor = os.memfd_create(name)
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _limited(limits: Limits, isolated: bool = True) -> list[str]:
    """`data` in place of `as`: JavaScript and Java reserve far more addresses than they write to.

    Processes are limited where the run has its own user or namespace: elsewhere all others of the user would count.
    """
    return [
        "prlimit", f"--cpu={max(1, round(limits.seconds))}", f"--data={limits.memory_mb << 20}", "--core=0",
        *([f"--nproc={limits.processes}"] if isolated else []), f"--fsize={limits.disk_mb << 20}", "--nofile=256", "--",
    ]  # fmt: skip


def _watched(process: subprocess.Popen[bytes], limits: Limits) -> Run:
    """Read what a process prints until it ends or overruns a limit."""
    assert process.stdout is not None and process.stderr is not None
    parts: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    end = time.monotonic() + limits.clock
    look, total, stopped = time.monotonic() + WATCH_SECONDS, 0, ""
    with selectors.DefaultSelector() as selector:
        for stream in parts:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and not stopped:
            now = time.monotonic()
            for chosen, _ in selector.select(max(0.0, min(end, look) - now)):
                data = os.read(chosen.fd, 1 << 16)
                parts[chosen.fd].append(data)
                total += len(data)
                if not data:
                    selector.unregister(chosen.fd)
            if total > limits.output_bytes:
                stopped = "output"
            elif time.monotonic() >= end:
                stopped = "time"
            elif time.monotonic() >= look:
                stopped = "memory" if _resident(process.pid) > limits.memory_mb << 20 else ""
                look = time.monotonic() + WATCH_SECONDS
        if not stopped:  # it closed its streams, which is not yet its end
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                stopped = "time"
    if stopped:
        _end(process)
    output, errors = (b"".join(part)[: limits.output_bytes].decode("utf-8", "replace") for part in parts.values())
    status = 128 - process.returncode if process.returncode < 0 else process.returncode
    if not stopped and status in OUT_OF_TIME:
        stopped = "time"
    return Run(status, output, errors, stopped)


def _resident(root: int) -> int:
    """Bytes in memory of a process and all that descend from it."""
    parents, sizes = {}, {}
    for entry in os.listdir("/proc") if sys.platform.startswith("linux") else ():
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(entry)], sizes[int(entry)] = int(fields[1]), int(fields[21])
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(sizes.get(member, 0) for member in family) * os.sysconf("SC_PAGE_SIZE")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the group; of an isolated one, the namespace with all that is in it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
