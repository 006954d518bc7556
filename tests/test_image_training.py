"""Models that read images train as they are defined: beside the processor and the plain forward of each row alone."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pictures
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

from losslab.cells.training import train_model
from losslab.config.choices import Shape
from losslab.config.machine import MachineConfig
from losslab.config.schema import (
    AdapterConfig,
    Config,
    DatasetConfig,
    ModelConfig,
    OptimizerConfig,
    Precision,
    SchedulerConfig,
    TrainConfig,
)
from losslab.data.batches import collate
from losslab.data.examples import Examples, prepare
from losslab.data.tokenise import Tokeniser
from losslab.models.export import export
from losslab.models.loading import load_model, load_tokenizer
from losslab.models.policy import Policy, build, towers
from losslab.models.processors import image_inputs, load_processor
from losslab.objectives.sft import SFT
from losslab.training.image_rows import readable
from losslab.training.packing_check import check

PACKED = {"qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava"}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """By family: a checkpoint and examples of rows with two, one and no image, made when they are asked for."""
    made = {}

    def world(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            path = pictures.write_checkpoint(family, folder / "model")
            rows = pictures.write_rows(folder / "data")
            model = ModelConfig(path=str(path))
            tokeniser = Tokeniser(model, DatasetConfig(path=str(rows)), load_tokenizer(model), image_inputs(model))
            examples = Examples.load(prepare(tokeniser, TrainConfig(), folder / "cache"))
            made[family] = SimpleNamespace(
                folder=folder, rows=rows, model=model, examples=examples, tokeniser=tokeniser
            )
        return made[family]

    return world


def policy_of(world):
    policy = Policy(load_model(world.model), Precision.fp32, torch.float32, AdapterConfig())
    return policy, readable(world.examples, world.model, policy.model)


def plain(world):
    """Each row by the processor's own call and the model's own forward: token ids, and log-probabilities (L - 1,)."""
    processor = load_processor(world.model)
    model = AutoModelForImageTextToText.from_pretrained(world.model.path, attn_implementation="eager")
    for line in world.rows.read_text().splitlines():
        row = json.loads(line)
        text = row["question"].replace("<image>", pictures.placeholder(processor))
        turns = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n{row['answer']}<|im_end|>"
        images = [Image.open(world.rows.parent / name) for name in row["images"]]
        inputs = processor(text=[turns], images=images or None, return_tensors="pt", return_mm_token_type_ids=True).to(
            model.device
        )
        if not images:
            inputs = {"input_ids": inputs["input_ids"]}
        yield model, inputs["input_ids"][0], model(**inputs, use_cache=False).logits[0, :-1]


def gradients_alone(world, examples):
    """The sum of the rows' cross-entropy, the number of answer tokens, and gradients by the weights' names."""
    total, count, model = 0.0, 0, None
    for i, (model, ids, logits) in enumerate(plain(world)):  # noqa: B007
        assert ids.tolist() == examples.tokens[examples.offsets[i] : examples.offsets[i + 1]].tolist()
        prompt = examples.prompts[i]
        loss = cross_entropy(logits[prompt - 1 :], ids[prompt:], reduction="sum")
        loss.backward()
        total, count = total + float(loss), count + len(ids) - prompt
    assert model is not None
    return total, count, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("family", pictures.FAMILIES)
def test_loss_and_gradients_are_those_of_each_row_alone(family, worlds, one_rank):
    world = worlds(family)
    policy, examples = policy_of(world)
    result = check(policy, examples, torch.device("cpu"))
    assert result.packed == (family in PACKED), result
    total, count, expected = gradients_alone(world, examples)
    batch = collate(examples, np.array([5, 3, 2, 0, 1, 4]))
    out = policy(batch, SFT(), {})
    out["loss"].backward()
    assert count == len(batch.targets)
    assert float(out["loss"]) / count == pytest.approx(total / count, abs=1e-4)
    for name, parameter in policy.model.named_parameters():
        if expected[name] is None:
            assert parameter.grad is None, name
        else:
            scale = expected[name].abs().max()
            assert (parameter.grad - expected[name]).abs().max() <= 1e-4 * max(1.0, float(scale)), name


def config_of(world, **changes):
    train = TrainConfig(batch_size=6, precision=Precision.fp32, clip=1e9, max_steps=1, **changes.pop("train", {}))
    config = Config(
        model=world.model, dataset=DatasetConfig(path=str(world.rows)), train=train,
        loss={"_target_": "losslab.objectives.sft.SFT"},
        scheduler=SchedulerConfig(shape=Shape.constant, warmup_ratio=0),
        optimizer=OptimizerConfig(_target_="torch.optim.SGD", lr=0.1),
        machine=MachineConfig(results=str(world.folder), device="cpu", threads=1, **changes.pop("machine", {})),
    )  # fmt: skip
    return replace(config, **changes)


def test_what_is_trained_is_the_decoder_unless_the_vision_tower_is_asked_for(worlds, one_rank):
    world = worlds("qwen2_5_vl")
    for freeze in (True, False):
        policy = build(config_of(world, train={"freeze_vision": freeze}), torch.device("cpu"), reference=False)
        trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
        assert policy.trains_vision is not freeze
        assert any("visual" in name for name in trained) is not freeze
        assert {name for name, _ in policy.model.named_parameters() if "visual" not in name} <= trained
    batch = collate(readable(world.examples, world.model, policy.model), np.array([2]))
    assert batch.images is None  # and yet every rank adds something to every weight
    policy(batch, SFT(), {})["loss"].backward()
    grads = [parameter.grad for parameter in towers(policy.model)]
    assert all(grad is not None and not grad.any() for grad in grads)


def test_an_adapted_model_is_exported_with_its_processor(worlds, one_rank):
    world = worlds("gemma3")
    adapter = AdapterConfig(rank=2, target_modules=["all-linear"])
    policy = build(config_of(world, adapter=adapter), torch.device("cpu"), reference=False)
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert trained and all("language_model" in name and ".lora_" in name for name in trained)
    folder = world.folder / "exported"
    export(policy, load_tokenizer(world.model), folder, [])
    again = AutoModelForImageTextToText.from_pretrained(folder)
    before = AutoModelForImageTextToText.from_pretrained(world.model.path).state_dict()
    for name, weight in again.state_dict().items():  # the adapters have changed nothing yet
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    ours, theirs = load_processor(replace(world.model, path=str(folder))), load_processor(world.model)
    asked = {"text": [theirs.image_token], "images": [pictures.draw("1+1")], "return_tensors": "pt"}
    assert ours.chat_template == theirs.chat_template
    for name, value in theirs(**asked).items():
        torch.testing.assert_close(ours(**asked)[name], value)


def test_two_ranks_take_the_step_of_the_plain_gradients(worlds):
    """Real workers and FSDP2, with a trained vision tower; some micro-batches have no image."""
    world = worlds("qwen2_5_vl")
    config = config_of(world, train={"freeze_vision": False}, machine={"workers": 2, "micro_batch_tokens": 70})
    train_model(config, world.folder / "cell")
    _, count, gradients = gradients_alone(world, world.examples)
    before = AutoModelForImageTextToText.from_pretrained(world.model.path).state_dict()
    after = AutoModelForImageTextToText.from_pretrained(world.folder / "cell/model").state_dict()
    for name, gradient in gradients.items():
        step = before[name] - 0.1 * (0 if gradient is None else gradient / count)
        torch.testing.assert_close(after[name], step, rtol=1e-4, atol=1e-4)
    assert any((after[name] - before[name]).abs().max() > 1e-3 for name in after if "visual" in name)
    record = json.loads((world.folder / "cell/packing.json").read_text())
    assert record["packed"] and record["agreement"]["leak"] == 0
    assert json.loads((world.folder / "cell/data.json").read_text())["images"] == 6


def test_a_model_of_texts_refuses_images_and_one_of_images_takes_texts(worlds, checkpoint, one_rank):
    world = worlds("llava")
    with pytest.raises(ValueError, match="the data have images, and Qwen2ForCausalLM .* reads none"):
        readable(world.examples, ModelConfig(path=str(checkpoint)), load_model(ModelConfig(path=str(checkpoint))))
    policy, _ = policy_of(world)
    lines = [json.dumps({"question": "What?", "answer": "Ten. " * n}) + "\n" for n in (1, 3, 2)]
    (world.folder / "texts.jsonl").write_text("".join(lines))
    tokeniser = replace(world.tokeniser, dataset=DatasetConfig(path=str(world.folder / "texts.jsonl")))
    examples = Examples.load(prepare(tokeniser, TrainConfig(), world.folder / "cache"))
    assert examples.images is None
    assert check(policy, readable(examples, world.model, policy.model), torch.device("cpu")).packed
