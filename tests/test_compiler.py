"""What is compiled for a GPU depends on a C compiler, which a CUDA image may lack."""

import pytest
import torch

from losslab.models import attention
from losslab.models.attention import Scores
from losslab.models.compiler import can_compile
from losslab.models.kernels import kernels

pytest.importorskip("triton", reason="Triton is not installed")
GPU = torch.device("cuda", 0)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """The only folder of programs of a machine with a GPU of Hopper's generation, without a C compiler at first."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    kernels.cache_clear()
    yield tmp_path
    kernels.cache_clear()


def test_without_a_c_compiler_the_loss_has_no_kernels_which_is_said_once(programs, caplog):
    assert not can_compile()
    assert kernels(GPU) is None and kernels(GPU) is None
    (line,) = caplog.messages
    assert line.startswith("no C compiler is installed here, so the loss is computed without its kernels")
    (programs / "cc").touch(mode=0o755)  # which Triton does not look for
    assert not can_compile()


@pytest.mark.parametrize("name", ["gcc", "clang", None])
def test_with_one_that_triton_takes_the_kernels_are_used(programs, monkeypatch, name):
    if name is None:
        monkeypatch.setenv("CC", "/somewhere/cc")
    else:
        (programs / name).touch(mode=0o755)
    assert can_compile() and kernels(GPU).__name__ == "losslab.models.fused_loss_triton"


def test_attention_that_would_be_compiled_goes_by_runs(programs):
    class OnGPU:
        is_cuda = True

    capped = Scores(1.0, softcap=5.0)
    assert attention._kind(OnGPU(), capped) is attention.by_runs
    (programs / "gcc").touch(mode=0o755)
    assert attention._kind(OnGPU(), capped) is attention.by_blocks
