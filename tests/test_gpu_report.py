"""The page of the command for a GPU, from made-up measurements, and how it ends a section."""

import importlib
import sys
import time

import pytest


@pytest.fixture
def report(root, tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.reload(importlib.import_module("gpu_report"))


def test_a_page_has_every_section(report, tmp_path):
    dft = {"section": "steps", "name": "losslab DFT", "peak_gb": 59.6, "planned_gb": 66.6, "micro_batch_tokens": 26112}
    for speed in (40_000, 44_000):  # two turns
        report.say(**dft, answer_tokens_per_second=speed, mfu=speed / 80_000)
    report.say(section="steps", name="TRL dft", answer_tokens_per_second=21_000, peak_gb=54.2)
    report.say(section="steps", name="TRL dft, Liger", error="no memory")
    report.say(section="parts", name="AdamW, fused", ms=12.5432)
    report.say(section="profile", kernel="gemm", ms=310.0, count=84, share=0.7)
    report.say(section="outcome", name="steps", outcome="done", seconds=80)
    report.say(section="outcome", name="loss", outcome="over its limit", seconds=60)
    path = report.write_page("NVIDIA H200", "torch 2.11.0")
    assert path == tmp_path / "gpu-nvidia-h200.md"  # and not over the published page
    lines = path.read_text().splitlines()
    for line in (
        "| losslab DFT | 42,000 | 2.00× | 52.5% | 59.6 | 66.6 | 26,112 |",
        "| TRL dft | 21,000 | 1.00× |  | 54.2 |  |  |",
        "| TRL dft, Liger | no memory | | | | | |",
        "| parts | ms |", "|---|---:|", "| AdamW, fused | 12.5 |",
        "| profile | ms | count | share |", "|---|---:|---:|---:|", "| gemm | 310 | 84 | 0.7 |",
        "| loss | over its limit | 60 |",
    ):  # fmt: skip
        assert line in lines, line
    assert report.failures() == ["loss: over its limit", "TRL dft, Liger: no memory"]


SLOW = """
import os, signal, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
print(child.pid, flush=True)
try:
    time.sleep(600)
finally:
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    print("ended", flush=True)
"""


def test_a_section_at_its_limit_ends_what_it_has_started(report, root, tmp_path, monkeypatch):
    """What it starts in other sessions, as the drill of kills does, would go on beside the next section."""
    gpu = importlib.reload(importlib.import_module("gpu"))
    monkeypatch.setitem(gpu.SECTIONS, "kills", 2)
    monkeypatch.setattr(gpu, "command", lambda section, tiny: [sys.executable, "-c", SLOW])
    began = time.monotonic()
    assert gpu.run("kills", tiny=False) == "over its limit"
    assert time.monotonic() - began < gpu.SECONDS_TO_END
    assert (tmp_path / "kills.log").read_text().split()[1:] == ["ended"]
