"""What a program in the sandbox tries and does not get, with real programs in real namespaces."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT

from losslab.programs import sandbox
from losslab.programs.sandbox import Limits, Run, Sandbox

PYTHON = f"/python/bin/{Path(os.path.realpath(sys.executable)).name}"
LIBRARY = {"LD_LIBRARY_PATH": "/python/lib"}  # of the interpreter
pytestmark = pytest.mark.skipif(
    bool(sandbox.refusal()) and not os.environ.get("LOSSLAB_CODE"), reason=f"no isolation: {sandbox.refusal()}"
)


@pytest.fixture(scope="module")
def box() -> Sandbox:
    return Sandbox({"/python": Path(os.path.realpath(sys.executable)).parents[1]})


def run(box: Sandbox, program: str, **limits: float) -> Run:
    return box.run([PYTHON, "-s", "-B", "program.py"], {"program.py": program}, Limits(**limits), LIBRARY)  # type: ignore[arg-type]


def processes(mark: str) -> list[str]:
    """The command lines on this machine that contain a text."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines.append((entry / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:  # it has ended
                continue
    return [line for line in lines if mark in line]


def gone(mark: str) -> bool:
    """Whether such processes end; the kernel takes a namespace down after its first process."""
    end = time.monotonic() + 60
    while processes(mark) and time.monotonic() < end:
        time.sleep(0.1)
    return not processes(mark)


def as_nobody(code: str) -> subprocess.CompletedProcess[str]:
    """Python code as another user, by the system's Python, which lacks the libraries of most of our modules."""
    python = "/usr/bin/python3"
    if os.getuid() != 0 or not Path(python).is_file():
        pytest.skip("needs root, and the system's Python for another user")
    return subprocess.run(
        [python, "-c", code], user=65534, group=65534, extra_groups=[], capture_output=True, text=True, cwd="/",
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip


def test_a_program_runs_and_its_end_is_told(box):
    assert run(box, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)") == Run(3, "out\n", "err\n")
    assert run(box, "print(open('other.txt').read())").status == 1
    assert box.run(["cat", "a", "b"], {"a": "é1", "b": "2"}, Limits()).output == "é12"


def test_a_fork_bomb_stays_small_and_nothing_of_it_is_left(box):
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    command = [PYTHON, "-s", "program.py", "bomb-7261"]
    ended = box.run(command, {"program.py": bomb}, Limits(clock=3, processes=20), LIBRARY)
    assert ended.stopped == "time"
    assert gone("bomb-7261")
    counted = run(
        box,
        "import os, time\ncount = 0\nwhile True:\n    try:\n        if os.fork() == 0: time.sleep(60)\n"
        "        count += 1\n    except OSError: break\nprint(count, flush=True)\nos._exit(0)",
        processes=20,
    )
    assert 0 < int(counted.output) < 20


def test_sleeping_and_turning_in_a_loop_end_at_the_limit(box):
    assert run(box, "import time; time.sleep(600)", clock=2).stopped == "time"
    assert run(box, "while True: pass", seconds=1, clock=600).stopped == "time"


def test_what_is_started_in_the_background_ends_with_the_program(box):
    program = (
        "import subprocess\nsubprocess.Popen(['sleep', '7262'], start_new_session=True,"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\nprint('left')"
    )
    assert run(box, program).output == "left\n"
    assert gone("\x007262")


def test_files_outside_can_be_neither_read_nor_written(box, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    secret.chmod(0o644)
    places = [str(secret), "/etc/passwd", "/etc/shadow", os.path.expanduser("~"), str(ROOT), "/proc/1/environ"]
    tried = run(
        box,
        f"import os\nfor place in {places}:\n    try:\n"
        "        print(os.listdir(place) if os.path.isdir(place) else open(place).read())\n"
        "    except OSError as error: print(type(error).__name__)",
    )
    assert set(tried.output.split()) <= {"FileNotFoundError", "PermissionError"}
    home = os.path.expanduser("~")
    for place in (f"{home}/.bashrc", "/etc/x", "/usr/x", "/x", "/dev/x", "/python/x", "/bin/sh", str(tmp_path / "x")):
        written = run(box, f"open({place!r}, 'w').write('harm')")
        assert written.status == 1, place
    assert not (tmp_path / "x").exists()
    assert run(box, "open('x', 'w').write('own'); print(open('x').read())").output == "own\n"


def test_variables_of_the_environment_stay_outside(box, monkeypatch):
    monkeypatch.setenv("LOSSLAB_TEST_TOKEN", "7263-secret")
    seen = run(box, "import os; print(dict(os.environ))").output
    assert "7263-secret" not in seen and "/scratch" in seen
    everywhere = (
        "import glob\nfor file in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: print(open(file).read())\n    except OSError: pass"
    )
    assert "7263-secret" not in run(box, everywhere).output


def test_there_is_no_network(box):
    for program in (
        "import socket; socket.create_connection(('127.0.0.1', 22), timeout=5)",
        "import socket; socket.create_connection(('1.1.1.1', 80), timeout=5)",
        "import socket; print(socket.getaddrinfo('example.org', 80))",
        "import socket; socket.socket(40, socket.SOCK_STREAM)",  # AF_VSOCK, which a network namespace does not hold
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    ):
        assert run(box, program).status == 1, program


def test_the_disk_cannot_be_filled(box):
    fill = (
        "import os\nwritten = 0\nfor place in ('a', 'b', '/dev/shm/a', '/dev/shm/b'):\n    try:\n"
        "        with open(place, 'wb', buffering=0) as file:\n            for _ in range(40): "
        "written += file.write(bytes(1 << 20)) \n    except OSError: pass\nprint(written >> 20)"
    )
    assert int(run(box, fill, disk_mb=16).output) <= 17


def test_memory_is_limited_for_one_process_and_for_all_together(box):
    assert "MemoryError" in run(box, "x = bytearray(1 << 30)", memory_mb=256).errors
    many = (
        "import mmap, os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        break\n"
        "held = mmap.mmap(-1, 64 << 20)\nheld.write(bytes(64 << 20))\ntime.sleep(60)"
    )
    assert run(box, many, memory_mb=256).stopped == "memory"
    assert run(box, "import os; os.memfd_create('x')").status == 1  # memory that no limit counts


def test_output_is_limited(box):
    flood = run(box, "while True: print('x' * 1000)", output_bytes=10_000)
    assert (flood.stopped, len(flood.output)) == ("output", 10_000)


def test_a_program_cannot_kill_or_trace_what_started_it(box):
    for target in (os.getpid(), os.getppid()):
        assert run(box, f"import os; os.kill({target}, 9)").status == 1
    everyone = run(box, "import os, signal; os.kill(-1, signal.SIGTERM); print('sent')")
    assert everyone.status in (0, 1, 143) and os.getpid()
    trace = "import ctypes; print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))"
    assert run(box, trace).output == "-1\n"


def test_privileges_and_namespaces_are_out_of_reach(box):
    status = run(box, "print(open('/proc/self/status').read())").output
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert values["NoNewPrivs"] == "1" and values["Seccomp"] == "2"
    assert {int(values[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
    assert run(box, "import os; os.setuid(0)").status == 1
    for command in (
        ["unshare", "--user", "true"],
        ["unshare", "--mount", "true"],
        ["mount", "-t", "tmpfs", "x", "/scratch"],
    ):
        assert box.run(command, {}, Limits()).status != 0, command


def test_several_run_at_once_and_know_nothing_of_each_other(box):
    program = (
        "import os\nassert not os.path.exists('n')\nopen('n', 'w').write('{0}')\n"
        "print(open('n').read(), len(os.listdir('.')))"
    )
    with ThreadPoolExecutor(4) as threads:
        outputs = list(threads.map(lambda i: run(box, program.format(i)).output, range(8)))
    assert outputs == [f"{i} 2\n" for i in range(8)]


def test_a_run_ends_with_the_process_that_started_it():
    code = (
        "import os, threading, time\nfrom losslab.programs.sandbox import Limits, Sandbox\n"
        "threading.Timer(2, lambda: os._exit(0)).start()\nSandbox().run(['sleep', '7264'], {}, Limits(clock=100))"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, check=True)
    assert gone("sleep\x007264")


def test_a_user_who_is_not_root_has_the_same_isolation():
    code = (
        "from losslab.programs.sandbox import Limits, Sandbox\n"
        "run = Sandbox().run(['sh', '-c', 'id -u; ls /; cat /etc/passwd; unshare -U true'], {}, Limits())\n"
        "assert run.status != 0, run\nprint(run.output)"
    )
    done = as_nobody(code)
    if "cannot be isolated" in done.stderr:
        pytest.skip("other users cannot have namespaces on this machine, or cannot read this folder")
    assert done.returncode == 0, done.stderr
    assert "65534" in done.stdout and "home" not in done.stdout


def test_a_machine_without_bubblewrap_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    sandbox.refusal.cache_clear()
    try:
        with pytest.raises(ValueError, match="the program bwrap is missing.*machine.unsafe_code=true"):
            Sandbox()
    finally:
        sandbox.refusal.cache_clear()


def test_without_isolation_the_limits_still_hold():
    plain = Sandbox(isolated=False)
    assert plain.run(["cat", "a"], {"a": "text"}, Limits()) == Run(0, "text", "")
    assert plain.run(["sleep", "60"], {}, Limits(clock=0.5)).stopped == "time"


def test_without_isolation_other_processes_of_the_user_do_not_count():
    code = (
        "import threading, time\nfrom losslab.programs.sandbox import Limits, Sandbox\n"
        "for _ in range(120): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "print(Sandbox(isolated=False).run(['sh', '-c', 'ls; echo hi'], {}, Limits()))"
    )
    done = as_nobody(code)
    if "No module named" in done.stderr:
        pytest.skip("other users cannot read this folder")
    assert done.stdout == f"{Run(0, 'hi' + chr(10), '')}\n", done.stderr
