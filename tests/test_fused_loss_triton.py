"""The Triton kernels without a GPU: by Triton's interpreter, and compiled for GPUs that are not here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")


def test_under_the_interpreter() -> None:
    """The tests of triton_interpreted.py, where the variable is set before Triton is loaded."""
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    file = Path(__file__).with_name("triton_interpreted.py")
    run = subprocess.run(
        [*command, file], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
    assert "26 passed" in run.stdout, run.stdout


TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("full", [False, True])
def test_compiles_ahead_of_time(target: str, full: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Loads and stores are of 16 bytes, though no block divides the vocabulary."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from losslab.models.fused_loss_triton import rows_kernel as kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    heads = {
        "products": "*bf16",
        "bias": "*fp32" if full else None,
        "scale": "fp32",
        "softcap": "fp32" if full else None,
    }
    types = [*heads.values(), *(heads.values() if full else (None, None, "fp32", None))]
    types += ["*i64", "*fp32", "*fp32", "*fp32", "i32", "i32"]
    signature = dict(zip(kernel.arg_names, types, strict=False))
    constants = {name: None for name, kind in signature.items() if kind is None}
    constants |= {"SLOPES": True, "BLOCK": 8192, "LANE": 8}
    aligned = [name for name, kind in signature.items() if (kind or "").startswith("*") or name == "stride"]
    source = ASTSource(
        kernel,
        signature | dict.fromkeys(constants, "constexpr"),
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    check(triton.compile(source, target=GPUTarget(*TARGETS[target]), options={"num_warps": 16}).asm, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("add", [None, False, True])
def test_what_scales_and_adds_compiles_ahead_of_time(
    target: str, add: bool | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Gradients in bfloat16, which are scaled where they are or added up in float32."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from losslab.models.fused_loss_triton import accumulate_kernel, scale_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = scale_kernel if add is None else accumulate_kernel
    types = ["*bf16", "*fp32", "i32"] if add is None else ["*fp32", "*bf16", "i32"]
    constants = {"BLOCK": 8192} if add is None else {"ADD": add, "BLOCK": 4096}
    source = ASTSource(
        kernel,
        dict(zip(kernel.arg_names, types, strict=False)) | dict.fromkeys(constants, "constexpr"),
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
        {(place,): [["tt.divisibility", 16]] for place in range(3)},
    )
    check(triton.compile(source, target=GPUTarget(*TARGETS[target]), options={"num_warps": 8}).asm, target)


def check(assembly: dict[str, str], target: str) -> None:
    """There is code for the GPU, whose stores are of 16 bytes."""
    if target == "gfx942":
        assert assembly["hsaco"] and "global_store_dwordx4" in assembly["amdgcn"]
    else:
        assert assembly["cubin"] and "st.global.v4.b32" in assembly["ptx"] and "st.global.b16" not in assembly["ptx"]
