"""Grading in killable processes: overlap, limits, hostile answers."""

import json
import os
import re
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest

from losslab.grading.graders import Grader, Verdict

SHARED = Path(os.environ.get("LOSSLAB_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared")) / "data"
TOWER = "9^{9^{9^{9}}}"


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=1, seconds=1.0) as grader:
        yield grader


def test_both_verdicts(grader: Grader) -> None:
    assert grader.submit("tiny_sums", "so \\boxed{512}", "512").result() == Verdict("512", True, True, False)
    assert grader.submit("aime24", "\\boxed{2500}", "25").result() == Verdict("2500", True, False, False)
    assert grader.submit("a_new_one", "\\boxed{1+x}", "x+1").result() == Verdict("1+x", True, True, False)
    scientific = grader.submit("minerva_math", "\\boxed{3.21 \\times 10^{13}}", "3.21e13").result()
    assert scientific == Verdict("3.21\\times10^{13}", False, True, False)
    truth = grader.submit("math500", "\\boxed{864}", "864^2", truth="864 \\mbox{ inches}^2").result()
    assert truth == Verdict("864", False, True, False)
    assert grader.submit("math500", "\\boxed{west}", "").result() == Verdict("", True, False, False)
    assert grader.submit("math500", "\\boxed{east}", "").result() == Verdict("", True, True, False)  # a known bad gold
    assert grader.submit("math500", "", "7").result() == Verdict("", False, False, False)


def test_equal_answers_are_graded_once(grader: Grader) -> None:
    first = grader.submit("tiny_sums", "I say \\boxed{\\frac{2}{4}+y}", "y+0.5")
    assert grader.submit("tiny_sums", "or rather \\boxed{\\frac{2}{4}+y}", "y+0.5") is first
    assert first.result().official and first.result().corrected


def test_plain_answers_need_no_worker() -> None:
    with Grader(workers=1) as grader:
        start = time.perf_counter()
        verdicts = [grader.submit("tiny_sums", f"\\boxed{{{n}}}", "500") for n in range(1000)]
        assert sum(verdict.result().official for verdict in verdicts) == 2  # 500 and, by the factor of 100, 5
        assert sum(verdict.result().corrected for verdict in verdicts) == 1
        assert time.perf_counter() - start < 3


@pytest.mark.parametrize(
    "answer",
    [TOWER, "9^9^9^9", "(" * 20_000, "\\frac{" * 3000, "x" * 100_000, "\\Gamma(100000)", "e^{2\\pi i/2310}!!!!"],
)
def test_hostile_answers_cost_their_own_limit_only(grader: Grader, answer: str) -> None:
    start = time.perf_counter()
    verdict = grader.submit("tiny_sums", f"\\boxed{{{answer}}}", "7y").result()
    assert not verdict.official and not verdict.corrected
    assert time.perf_counter() - start < 20  # two limits of one second, and the start of two processes
    assert grader.submit("tiny_sums", f"\\boxed{{{len(answer)}+z}}", f"z+{len(answer)}").result().official


def test_overruns_are_reported_and_the_limit_does_not_run_in_the_queue() -> None:
    with Grader(workers=1, seconds=1.0) as grader:
        grader.submit("tiny_sums", "\\boxed{1+x}", "x+1").result()
        start = time.perf_counter()
        hangs = [grader.submit("tiny_sums", f"\\boxed{{{TOWER}+{n}}}", f"{TOWER}+{n}+1") for n in range(1)]
        waiting = [grader.submit("tiny_sums", f"\\boxed{{{n}+x}}", f"x+{n}") for n in range(20)]
        assert time.perf_counter() - start < 1  # submitting waits for nothing
        assert all(hang.result().timed_out for hang in hangs)
        assert all(verdict.result() == Verdict(f"{n}+x", True, True, False) for n, verdict in enumerate(waiting))


def test_memory_is_limited() -> None:
    if not Path("/proc/self/limits").exists():
        pytest.skip("only Linux enforces the limit")
    with Grader(workers=1, memory_mb=512) as grader:
        assert grader.submit("tiny_sums", "\\boxed{1+x}", "x+1").result().official
        worker = grader._idle.get()
        grader._idle.put(worker)
        assert worker.process is not None
        limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
    assert re.search(rf"Max address space +{512 << 20} ", limits)


def test_code_is_never_executed(grader: Grader, tmp_path: Path) -> None:
    victim = tmp_path / "made"
    codes = [f"__import__('os').system('touch {victim}')", f"open('{victim}','w')", f"exec(\"open('{victim}','w')\")"]
    for code in codes:
        for gold in ("7", "x+1", "(1,2)", "x=5", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", code + "+1"):
            verdict = grader.submit("tiny_sums", f"\\boxed{{{code}}}", gold).result()
            assert not verdict.corrected
            # The official rules read a formula up to what they cannot read: equal beginnings are equal to them.
            assert verdict.official is (gold == code + "+1" and code[0] == "o")
    assert not victim.exists()


def test_workers_import_neither_torch_nor_the_main_module(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import os, sys\n"
        "open(os.environ['TRACE'], 'a').write('main\\n')\n"
        "from losslab.grading.graders import Grader\n"
        "with Grader(2) as grader:\n"
        "    print(grader.submit('tiny', '\\\\boxed{1+x}', 'x+1').result().official)\n"
        "print('sympy' in sys.modules, 'torch' in sys.modules)\n"
    )
    trace = tmp_path / "trace"
    source = Path(__file__).resolve().parents[1] / "src"
    environment = {**os.environ, "TRACE": str(trace), "PYTHONPATH": str(source)}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=100)
    assert run.stdout.split() == ["True", "False", "False"], run.stderr
    assert trace.read_text() == "main\n"
    code = "import sys, losslab.grading.symbols, losslab.grading.corrected; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert run.stdout.split() == ["False"], run.stderr


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        Grader(workers=0)


def test_extraction_in_the_parent_is_linear(grader: Grader) -> None:
    start = time.perf_counter()
    grader.submit("tiny_sums", "7" * 10**6, "7").result()
    assert time.perf_counter() - start < 2


def test_open_pairs_in_any_order() -> None:
    path = SHARED / "grader/pairs_open.jsonl"
    if not path.exists():
        pytest.skip("needs the shared data")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with Grader(workers=1) as grader:
        futures = {}
        for row in reversed(rows):
            futures[row["id"]] = grader.submit(row["benchmark"], row["prediction"], row["gold"], row["gold_raw"])
        verdicts = [futures[row["id"]].result() for row in rows]
    agreed = sum(v.official == row["reference_score"] for v, row in zip(verdicts, rows, strict=True))
    assert agreed >= 0.995 * len(rows)
    known = [(v.corrected, row["intended"]) for v, row in zip(verdicts, rows, strict=True) if "intended" in row]
    assert sum(ours and not truth for ours, truth in known) == 0
    assert sum(truth and not ours for ours, truth in known) <= 1


INTERRUPTED = """
import os, signal, time
from losslab.grading.graders import Grader

if __name__ == "__main__":
    try:
        with Grader(workers=1) as grader:
            assert not grader.submit("math500", "\\\\boxed{1+x}", "x+1").done()
            while not grader._idle.empty():  # until its process starts
                time.sleep(0.001)
            time.sleep(0.1)
            os.killpg(0, signal.SIGINT)
            time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_does_not_reach_a_grading_process_that_starts(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], start_new_session=True, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


@pytest.mark.parametrize("asked", [False, True])
def test_a_grading_process_whose_parent_was_killed_ends_without_a_word(asked: bool) -> None:
    """While it starts, and while it has a question."""
    ours, theirs = Pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", f"from losslab.grading.graders import _serve; _serve({theirs.fileno()}, 9.0, 4096)"],
        pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    theirs.close()
    if asked:
        assert ours.recv_bytes() == b"null"
        ours.send_bytes(json.dumps(["official", "2", "2"]).encode())
    ours.close()
    assert process.communicate(timeout=120)[1] == ""
    assert process.returncode == 0
