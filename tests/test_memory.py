"""The plan's memory against the peak of real training processes."""

import json
import math
import resource
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path

import pytest
import warm
import yaml
from test_training import make, trained
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from losslab.config.choices import Recompute
from losslab.config.machine import MachineConfig
from losslab.config.schema import (
    AdapterConfig,
    Config,
    DatasetConfig,
    ModelConfig,
    OptimizerConfig,
    Precision,
    ReferenceConfig,
    TrainConfig,
)
from losslab.data import toy_task
from losslab.models.merged_adapters import merged
from losslab.planning import memory
from losslab.planning.architecture import Architecture, count_parameters, describe, reference_parameters
from losslab.training.trim_malloc import held, trim_malloc

ROW = {"problem": "12+30=?", "solution": "2+0+0=2, " * 100 + "\\boxed{42}"}


DEEP = {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8}  # activations
WIDE = {"vocab_size": 48_000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2}  # weights


@pytest.fixture
def server_of_its_own():
    """A worker begins with pages of the server that it is forked from, which imports more for other tests."""
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()
    warm.IMPORTED.set_forkserver_preload(warm.PRELOAD)


@pytest.mark.drill
@pytest.mark.parametrize(
    ("shape", "precision", "recompute"),
    [
        (DEEP, Precision.fp32, Recompute.none),
        (DEEP, Precision.bf16, Recompute.full),
        (WIDE, Precision.bf16, Recompute.none),
    ],
    ids=["deep-fp32", "deep-bf16-recomputed", "wide-bf16"],
)
def test_the_peak_is_near_that_of_the_plan(shape, precision, recompute, tmp_path, server_of_its_own):
    """With a checkpoint being written all the time, as in any run that takes long enough to be killed."""
    architecture = Qwen2Config(
        **shape, num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=2048,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(architecture)
    model.save_pretrained(tmp_path / "model")
    toy_task.tokenizer().save_pretrained(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text((json.dumps(ROW) + "\n") * 16)
    config = make(
        tmp_path / "model",
        rows,
        tmp_path,
        "dft",
        micro_batch_tokens=2048,
        workers=1,
        checkpoint_steps=1,
        recompute=recompute,
    )
    adam = OptimizerConfig("torch.optim.AdamW", 1e-5, arguments={"fused": True})
    own = replace(config.train, batch_size=2, max_steps=2, max_length=1024, precision=precision)
    config = replace(config, optimizer=adam, train=own)
    _, metrics = trained(config, tmp_path / "cell")
    planned = memory.on_device(config, architecture, sum(p.numel() for p in model.parameters()))
    assert 0.7 < metrics[-1]["peak_memory"] / planned < 1.4


QWEN = {"num_hidden_layers": 28, "head_dim": 128, "max_position_embeddings": 4096}
QWEN_1_5B = QWEN | {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2}
QWEN_7B = QWEN | {"hidden_size": 3584, "intermediate_size": 18_944, "num_attention_heads": 28, "num_key_value_heads": 4}
LORA = AdapterConfig(8, 16, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"])


# Tokens of the steps of benchmarks/gpu_steps.py, of 64 sequences each.
OF_STEPS = [25566, 25677, 26548, 24249, 24894, 21418, 23865, 24577, 27538, 27151, 22361, 24883]


@pytest.mark.parametrize(
    ("shape", "vocabulary", "adapter", "tokens", "peak"),
    [
        (QWEN_1_5B, 151_936, AdapterConfig(), 24_576, 57.5e9),
        (QWEN_1_5B, 151_936, AdapterConfig(), 26_112, 59.6e9),
        (QWEN_1_5B, 151_936, AdapterConfig(), 32_768, 62.6e9),
        (QWEN_7B, 152_064, LORA, 24_576, 94.7e9),
    ],
    ids=["1.5B-less", "1.5B", "1.5B-more", "7B-lora"],
)
def test_the_plan_of_a_gpu_is_near_the_peaks_of_an_h200(shape, vocabulary, adapter, tokens, peak):
    """The peaks are those of results/benchmarks/gpu-nvidia-h200.md."""
    architecture = Qwen2Config(**shape, vocab_size=vocabulary, tie_word_embeddings=shape is QWEN_1_5B)
    parameters = count_parameters(architecture)
    machine = MachineConfig(micro_batch_tokens=tokens, recompute=Recompute.none, compile=True, reshard=False)
    loss = {"_target_": "losslab.objectives.dft.DFT"}
    config = Config(loss=loss, machine=machine, adapter=adapter, train=TrainConfig(batch_size=64))

    def planned(steps: list[int] | None) -> float:
        return memory.on_device(config, architecture, parameters, memory.Devices(1, 1, gpu=True), steps)

    assert planned(OF_STEPS) == pytest.approx(peak, rel=0.07)
    # Of a step that has one micro-batch, and of one that fills two, with the gradients of the first.
    assert planned(None) == planned([2 * tokens]) >= planned(OF_STEPS)
    earlier = 0.0 if adapter.rank else 4.0 * parameters
    assert planned([2 * tokens]) - planned([tokens]) == pytest.approx(earlier)


def test_weights_in_the_dtype_of_the_computation_are_not_copied():
    """On one GPU, of a step in which the 1.5B's gradients are more than all activations: 16 bytes a parameter."""
    architecture = Qwen2Config(**QWEN_1_5B, vocab_size=151_936, tie_word_embeddings=True)
    size = count_parameters(architecture)
    machine = MachineConfig(micro_batch_tokens=512, recompute=Recompute.full, compile=False, reshard=False)

    def planned(precision: Precision) -> float:
        config = Config(loss={"_target_": "losslab.objectives.dft.DFT"}, machine=machine,
                        train=TrainConfig(precision=precision, batch_size=1, max_length=512))  # fmt: skip
        return memory.on_device(config, architecture, size, memory.Devices(1, 1, gpu=True))

    assert planned(Precision.fp32) == 16 * size
    assert planned(Precision.bf16) == 18 * size  # and copies in bfloat16


def test_the_heads_of_a_cpu_without_bfloat16_by_hand():
    """The 1.5B in bfloat16: each head has a copy of its weight in float32, and logits in float32."""
    architecture = Qwen2Config(**QWEN_1_5B, vocab_size=151_936, tie_word_embeddings=True)
    size, weight = 1_543_714_304, 151_936 * 1536
    assert count_parameters(architecture) == size
    machine = MachineConfig(micro_batch_tokens=4096, recompute=Recompute.none, compile=False, reshard=False)

    def planned(objective: str, precision: Precision = Precision.bf16) -> float:
        loss = {"_target_": f"losslab.objectives.{objective}"}
        config = Config(loss=loss, machine=machine, train=TrainConfig(precision=precision))
        return memory.on_device(config, architecture, size, memory.Devices(1, 1, gpu=False)) / memory.FRAGMENTS

    chunk = 410 * 151_936  # logits: of 441 tokens at most, and 4,096 are ten such chunks
    blocks = 2 * 4 * 2**20
    process = memory.PROCESS + (memory.SKLEARN if find_spec("sklearn") else 0)
    layer = 2 * (5 * 1536 + 2 * 256 + 2 * 8960) + 2 * (3 * 1536 + 2 * 8960) + 16 * 1536
    trained = (16 + 2 + 12) * size + 4096 * 28 * layer  # with copies in bfloat16, and that of a checkpoint
    gradient, copy = 4 * weight, 4 * weight
    assert copy == pytest.approx(0.93e9, rel=0.01)
    sft = trained + 4 * chunk + blocks + gradient + copy + process
    assert planned("sft.SFT") == pytest.approx(sft, rel=1e-9)
    # A reference, frozen in bfloat16, has logits, blocks and a copy of its own; a term of whole rows has its gradient.
    assert planned("asft.ASFT") - sft == pytest.approx(2 * size + 4 * chunk + blocks + copy, rel=1e-9)
    assert planned("label_smoothing.LabelSmoothing") - sft == pytest.approx(4 * chunk, rel=1e-6)
    # In float32 the weight itself is used.
    difference = planned("asft.ASFT", Precision.fp32) - planned("sft.SFT", Precision.fp32)
    assert difference == pytest.approx(4 * size + 4 * chunk + blocks, rel=1e-9)


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({}, memory.Devices(1, 8, False)),
        ({"LOCAL_RANK": "3", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, memory.Devices(2, 8, False)),  # torchrun
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4", "SLURM_PROCID": "0"}, memory.Devices(4, 8, False)),
    ],
)
def test_devices_are_those_of_all_nodes(monkeypatch, environment, devices):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert memory.Devices.of(MachineConfig(device="cpu", workers=8)) == devices


def test_room_is_what_the_machine_and_the_control_group_have_left(tmp_path):
    def put(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert memory.room(False, tmp_path) is None
    put("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    4000 kB\nHugePages_Free:        0\n")
    assert memory.room(False, tmp_path) == 4000 * 1024
    put("proc/self/cgroup", "4:memory:/\n0::/job_7/step_0\n")
    put("sys/fs/cgroup/job_7/step_0/memory.max", "max\n")
    put("sys/fs/cgroup/job_7/step_0/memory.current", "1000\n")
    put("sys/fs/cgroup/job_7/memory.max", "1000000\n")
    put("sys/fs/cgroup/job_7/memory.current", "300000\n")
    put("sys/fs/cgroup/job_7/memory.stat", "anon 1\ninactive_file 50000\n")
    assert memory.room(False, tmp_path) == 750_000  # of the job, whose cache would go
    assert memory.room(False) is not None


def _facts(**changes: object) -> dict:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return sizes | {"num_key_value_heads": 2, "vocab_size": 100, "tie_word_embeddings": False} | changes


@pytest.mark.parametrize(
    "facts",
    [
        _facts(model_type="llama"),
        _facts(model_type="llama", tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=24),
        _facts(model_type="mistral", head_dim=32),
        _facts(model_type="qwen2", tie_word_embeddings=True),
        _facts(model_type="qwen3", head_dim=32),
        _facts(model_type="qwen3", attention_bias=True),
    ],
    ids=str,
)
def test_parameters_are_counted_as_transformers_builds_them(facts):
    known = Architecture.of(facts)
    assert known is not None and count_parameters(known) == count_parameters(AutoConfig.for_model(**facts))


def test_what_is_not_of_a_known_family_or_leaves_a_size_out_is_left_to_transformers():
    assert Architecture.of(_facts(model_type="gemma2")) is None
    without = _facts(model_type="llama")
    del without["tie_word_embeddings"]
    assert Architecture.of(without) is None


@pytest.mark.parametrize(("name", "parameters"), [("tiny", 167_296), ("tiny_large", 867_712)])
def test_the_architecture_in_the_tiny_models_files_is_that_of_the_toy_task(root, name, parameters):
    facts = yaml.safe_load((root / "conf/model/tiny.yaml").read_text())["architecture"]
    facts |= yaml.safe_load((root / f"conf/model/{name}.yaml").read_text())["architecture"]
    made = toy_task.model_config(large=name == "tiny_large")
    assert facts == {key: getattr(made, key) for key in facts}
    known = Architecture.of(facts)
    assert known is not None and known.parameters == count_parameters(made) == parameters


@pytest.mark.parametrize(
    ("cores", "left", "threads", "cells"),
    [(8, 64, 1, 8), (8, 64, 3, 2), (8, 64, None, 1), (8, 9, 1, 2), (8, 3, 1, 1), (2, None, 1, 2), (2, 64, 4, 1)],
)
def test_as_many_cells_at_once_as_there_are_cores_and_memory_for(monkeypatch, cores, left, threads, cells):
    monkeypatch.setattr(memory, "available_cores", lambda: cores)
    monkeypatch.setattr(memory, "room", lambda gpu: left and float(left * memory.GIB))
    assert memory.at_once(threads) == cells


@pytest.mark.skipif(not Path("/proc/self/statm").exists() or held() == math.inf, reason="glibc 2.33 on Linux")
def test_freed_memory_goes_back_to_the_system_where_there_is_much_of_it(monkeypatch):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    blocks = [bytearray(60_000) for _ in range(2000)]  # too small for mappings of their own
    blocks = blocks[::10]  # so that glibc cannot return what is free from its end
    before = resident()
    assert 100e6 < held()
    monkeypatch.setattr("losslab.training.trim_malloc.HELD", held() + 1)
    trim_malloc()
    assert resident() > before - 20e6
    monkeypatch.setattr("losslab.training.trim_malloc.HELD", 50_000_000)
    trim_malloc()
    assert resident() < before - 80e6 and len(blocks) == 200


@pytest.mark.parametrize(("tokens", "rows"), [(64, None), (4096, 3)])
def test_a_pair_takes_the_memory_of_its_two_sequences(tokens, rows):
    """A pair above the budget stands alone, and a micro-batch of pairs has two sequences for each."""
    architecture = toy_task.model_config()
    machine = MachineConfig(micro_batch_tokens=tokens, recompute=Recompute.none, compile=False, reshard=False)

    def planned(length: int, **dataset: str) -> float:
        config = Config(
            loss={"_target_": "losslab.objectives.sft.SFT"}, machine=machine, dataset=DatasetConfig("x", **dataset),
            train=TrainConfig(max_length=length, micro_batch=rows),
        )  # fmt: skip
        return memory.on_device(config, architecture, 10**6, memory.Devices(1, 1, gpu=False))

    assert planned(1024, rejected_column="wrong") == planned(2048) > planned(1024)


def test_parameters_of_a_model_with_code_of_its_own_are_counted_where_it_is_trusted(tmp_path):
    (tmp_path / "configuration_own.py").write_text(
        "from transformers import Qwen2Config\nclass OwnConfig(Qwen2Config):\n    model_type = 'own'\n"
    )
    (tmp_path / "modeling_own.py").write_text(
        "from transformers import Qwen2ForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(Qwen2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    toy_task.model_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    classes = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "own", "auto_map": classes}))
    architecture = describe(Config(model=ModelConfig(path=str(tmp_path), trust_remote_code=True)))
    with pytest.raises(ValueError, match="trust_remote_code"):  # first, since transformers then knows the class
        count_parameters(architecture)
    assert count_parameters(architecture, True) == 167_296


def test_a_mistake_in_a_reference_or_the_base_of_an_adapter_names_their_keys(tmp_path):
    bad, adapter = tmp_path / "bad", tmp_path / "adapter"
    for folder in (bad, adapter):
        folder.mkdir()
    (bad / "config.json").write_text('{"model_type": "none of this name"}')
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(bad)}))
    config = Config(model=ModelConfig(path="embedded"), reference=ReferenceConfig(path=str(bad)))
    with pytest.raises(ValueError, match=f"^the model reference.path={bad} cannot be loaded: "):
        reference_parameters(config)
    for read in (
        lambda: describe(Config(model=ModelConfig(path=str(adapter)))),
        lambda: merged(str(adapter), tmp_path),
    ):
        with pytest.raises(ValueError, match=f"the model base_model_name_or_path={bad} cannot be loaded: "):
            read()
