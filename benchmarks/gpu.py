"""What one GPU does with losslab: tests, whole steps beside TRL, the loss, kills, a 7B with LoRA; a page of tables.

python benchmarks/gpu.py                  all sections, each in its own process with a limit: 18 minutes at most
python benchmarks/gpu.py only=steps,trl   some of them
python benchmarks/gpu.py tiny=true        every section in small, on a CPU as well: a rehearsal

The sections write <section>.log, measurements.jsonl and loss-<device>.md to results/benchmarks/gpu, or to $OUT, and the
page gpu-<card>.md is made of them there. Pages in results/benchmarks are such pages with words added by hand, and are
not written over. A section that fails or exceeds its limit does not stop others, and the status is 1 then. The machine
needs torch, transformers and what pyproject.toml lists, pytest for the tests; and TRL and Liger where they are to be
compared. flash-attn-4 is used where it is installed.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import gpu_report

ROOT = Path(__file__).parents[1]
# Seconds at most, in order of value.
SECTIONS = {
    "tests": 150, "steps": 120, "trl": 110, "loss": 60, "options": 180, "parts": 60, "profile": 80,
    "kills": 190, "large": 130,
}  # fmt: skip
SECONDS_TO_END = 10
TESTS = ["test_gpu", "test_fused_loss", "test_attention"]  # which take a GPU where there is one


def command(section: str, tiny: bool) -> list[str]:
    if section == "tests":
        return [sys.executable, "-m", "pytest", "-q", *(str(ROOT / f"tests/{name}.py") for name in TESTS)]
    if section == "kills":  # a cell is trained, killed, resumed, exported and scored: bit for bit as an undisturbed one
        where = ["--device", "cpu" if tiny else "cuda", "--moments", "1" if tiny else "3"]
        return [sys.executable, str(ROOT / "tests/kill.py"), *where]
    if section == "loss":
        return [sys.executable, str(ROOT / "benchmarks/loss.py"), *(["--shapes", "64x32x1024"] if tiny else [])]
    late = f"faulthandler.dump_traceback_later({SECTIONS[section] - 5})"  # where it stands, before it is killed
    module = "gpu_parts" if section == "parts" else "gpu_steps"
    return [sys.executable, "-c", f"import faulthandler, {module}; {late}; {module}.{section}({tiny})"]


def run(section: str, tiny: bool) -> str:
    """How a section ended. At its limit it is asked to end what it has started, and killed soon after."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"} | os.environ
    environment |= {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["OUT"] = str(gpu_report.OUT)
    gpu_report.OUT.mkdir(parents=True, exist_ok=True)
    with (gpu_report.OUT / f"{section}.log").open("w") as log:
        process = subprocess.Popen(
            command(section, tiny), env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            status = process.wait(SECTIONS[section] * (40 if tiny else 1))  # a rehearsal shares its machine
        except subprocess.TimeoutExpired:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "over its limit"
    return "done" if status == 0 else f"failed with status {status}"


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if unknown := set(options) - {"only", "tiny"}:
        sys.exit(f"error: unknown option {unknown.pop()}: there are only= and tiny=true")
    sections = options.get("only", ",".join(SECTIONS)).split(",")
    if unknown := set(sections) - set(SECTIONS):
        sys.exit(f"error: unknown section {unknown.pop()}: there are {', '.join(SECTIONS)}")
    (gpu_report.OUT / "measurements.jsonl").unlink(missing_ok=True)
    for section in sections:
        began = time.monotonic()
        outcome = run(section, options.get("tiny") == "true")
        gpu_report.say(section="outcome", name=section, outcome=outcome, seconds=round(time.monotonic() - began))
    print(gpu_report.write_page())
    if failures := gpu_report.failures():
        sys.exit(f"error: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
