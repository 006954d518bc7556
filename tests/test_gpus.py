"""Which GPUs are visible and free, and their memory, from what nvidia-smi prints."""

import pytest

from losslab.distributed import gpus

FIRST, SECOND = "GPU-5d5ba0d6-d33d-2b2c", "GPU-8932f937-d72c-4106"
SLICES = ["MIG-3f6f389f-0000", "MIG-3f6f389f-1111"]
PRINTED = {
    "--query-gpu=index,uuid,memory.total": f"0, {FIRST}, 81559\n1, {SECOND}, 40960\n",
    "--query-gpu=uuid,name": f"{FIRST}, NVIDIA H100 80GB HBM3\n{SECOND}, NVIDIA A100-SXM4-40GB\n",
    "--query-compute-apps=gpu_uuid": f"{SECOND}\n",
    "-L": f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {FIRST})\n"
    f"  MIG 3g.40gb     Device  0: (UUID: {SLICES[0]})\n  MIG 1g.10gb+me  Device  1: (UUID: {SLICES[1]})\n",
}
LARGE, SMALL = 81559 * 2.0**20, 40960 * 2.0**20


@pytest.mark.parametrize(
    ("visible", "free", "memory"),
    [
        (None, [FIRST], SMALL),
        ("", None, None),
        ("-1", None, None),
        ("0", [FIRST], LARGE),
        ("0, 1", [FIRST], SMALL),
        ("1", [], SMALL),
        ("0,-1,1", [FIRST], LARGE),
        (FIRST, [FIRST], LARGE),
        ("GPU-8932", [], SMALL),
        (SLICES[0], SLICES[:1], 40e9),
        (",".join(SLICES), SLICES, 10e9),
    ],
)
def test_what_is_visible_is_read_as_cuda_does(monkeypatch, visible, free, memory):
    monkeypatch.setattr(gpus, "_nvidia_smi", lambda *arguments: PRINTED[arguments[0]])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (gpus.free(), gpus.memory()) == (free, memory)


def test_memory_that_nvidia_smi_does_not_know_is_unknown(monkeypatch):
    """As of a GPU that has no memory of its own."""
    printed = PRINTED | {"--query-gpu=index,uuid,memory.total": f"0, {FIRST}, [N/A]\n"}
    monkeypatch.setattr(gpus, "_nvidia_smi", lambda *arguments: printed[arguments[0]])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (gpus.free(), gpus.memory()) == ([FIRST], None)


def test_without_nvidia_smi_there_are_none(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert (gpus.free(), gpus.memory()) == (None, None)


@pytest.mark.parametrize(
    ("visible", "name"),
    [("0,1", "NVIDIA H100 80GB HBM3"), ("1,0", "NVIDIA A100-SXM4-40GB"), (SLICES[0], None), ("", None)],
)
def test_the_name_is_that_of_the_first_visible_gpu(monkeypatch, visible, name):
    monkeypatch.setattr(gpus, "_nvidia_smi", lambda *arguments: PRINTED[arguments[0]])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.name.__wrapped__() == name  # without the cache


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA RTX A1000 Laptop GPU", None),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_the_peak_is_that_of_the_whole_name(name, tera):
    assert gpus.peak(name) == (tera and tera * 1e12)
