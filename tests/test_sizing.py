"""What `auto` decides on a GPU, by its memory: sums by hand of the plan's formula."""

from dataclasses import replace
from itertools import pairwise

import pytest
from test_memory import QWEN_1_5B, QWEN_7B

from losslab.config.choices import Recompute
from losslab.config.machine import AUTO, MachineConfig
from losslab.config.schema import Config, TrainConfig
from losslab.planning import memory, sizing
from losslab.planning.architecture import Architecture, count_parameters
from losslab.planning.memory import GIB, Devices

SHAPES = {
    "1.5B": Architecture.of(QWEN_1_5B | {"model_type": "qwen2", "vocab_size": 151_936, "tie_word_embeddings": True}),
    "7B": Architecture.of(QWEN_7B | {"model_type": "qwen2", "vocab_size": 152_064, "tie_word_embeddings": False}),
}
NONE, SELECTIVE, FULL = Recompute.none, Recompute.selective, Recompute.full
ONE, EIGHT = Devices(1, 1, gpu=True), Devices(1, 8, gpu=True)


@pytest.fixture(autouse=True)
def c_compiler(monkeypatch):
    monkeypatch.setattr(sizing, "can_compile", lambda: True)


@pytest.fixture
def decided(monkeypatch):
    """Tokens of a micro-batch, recomputation and resharding on GPUs of so many bytes, with compiled layers."""

    def decide(shape: str, devices: Devices, available: float, **machine) -> tuple[int, Recompute, bool]:
        monkeypatch.setattr(sizing, "describe", lambda _: SHAPES[shape])
        config = Config(loss={"_target_": "losslab.objectives.dft.DFT"}, machine=MachineConfig(**machine))
        made = sizing.resolve(config, devices, available)
        assert made.compile is True
        return made.micro_batch_tokens, made.recompute, made.reshard

    return decide


@pytest.mark.parametrize(
    ("shape", "devices", "gib", "layout"),
    [
        ("1.5B", ONE, 24, (1024, FULL, True)),  # does not fit: the least that there is
        ("1.5B", ONE, 32, (4096, FULL, True)),
        ("1.5B", ONE, 40, (26_112, FULL, True)),
        ("1.5B", ONE, 48, (8192, NONE, False)),
        ("1.5B", ONE, 80, (26_112, NONE, False)),
        ("1.5B", ONE, 141, (26_112, NONE, False)),
        ("1.5B", EIGHT, 16, (26_112, FULL, True)),
        ("1.5B", EIGHT, 24, (12_288, NONE, True)),
        ("1.5B", EIGHT, 80, (26_112, NONE, False)),
        ("7B", ONE, 141, (1024, FULL, True)),  # nor does this one
        ("7B", ONE, 192, (12_288, NONE, False)),
        ("7B", EIGHT, 24, (2048, FULL, True)),
        ("7B", EIGHT, 40, (26_112, FULL, True)),
        ("7B", EIGHT, 80, (16_384, NONE, True)),
        ("7B", EIGHT, 96, (8192, NONE, False)),
        ("7B", EIGHT, 192, (26_112, NONE, False)),
    ],
)
def test_layouts_by_the_memory_of_a_card(decided, shape, devices, gib, layout):
    assert decided(shape, devices, gib * GIB) == layout


def by_hand(shape: str) -> tuple[Devices, float, tuple[int, Recompute, bool]]:
    """Bytes of a layout in which a step has several micro-batches, of compiled layers."""
    if shape == "1.5B":  # one GPU: weight, two moments and the gradient in float32, and a copy in bfloat16
        size, tokens, vocabulary, width, chunk = 1_543_714_304, 26_112, 151_936, 1536, 6528
        kept = (12 + 4 + 2) * size
        inner, kv, layout, devices = 8960, 256, (tokens, NONE, False), ONE
    else:  # an eighth of those, and the gathered embedding, output weight and two of 28 layers in bfloat16
        size, tokens, vocabulary, width, chunk = 7_615_616_512, 12_288, 152_064, 3584, 3072
        outer = 2 * vocabulary * width
        kept = (12 + 4) * size / 8 + 2 * (outer + 2 * (size - outer) / 28)
        inner, kv, layout, devices = 18_944, 512, (tokens, NONE, True), EIGHT
    activations = tokens * 28 * 2 * (4 * width + 2 * kv + 2 * inner)
    head = 2 * chunk * vocabulary + 4 * vocabulary * width  # logits of a quarter of the tokens, the weight's gradient
    return devices, kept + activations + head, layout


@pytest.mark.parametrize("shape", SHAPES)
def test_a_layout_is_taken_from_the_memory_on_that_the_formula_asks_for(decided, shape):
    devices, needed, layout = by_hand(shape)
    assert decided(shape, devices, 1.000001 * needed / 0.88) == layout
    assert decided(shape, devices, 0.999999 * needed / 0.88) != layout


@pytest.mark.parametrize("devices", [ONE, EIGHT], ids=["one", "eight"])
@pytest.mark.parametrize("shape", SHAPES)
def test_more_memory_never_gives_a_slower_layout(decided, shape, devices):
    order = list(sizing._layouts())
    places = [order.index(decided(shape, devices, gib * GIB)) for gib in range(8, 320, 4)]
    assert all(more <= less for less, more in pairwise(places))
    assert places[0] > places[-1] == 0
    config = Config(loss={"_target_": "losslab.objectives.dft.DFT"})
    for gib, place in zip(range(8, 320, 4), places, strict=True):
        tokens, recompute, reshard = order[place]
        machine = MachineConfig(micro_batch_tokens=tokens, recompute=recompute, reshard=reshard, compile=True)
        parameters = count_parameters(SHAPES[shape])
        needed = memory.on_device(replace(config, machine=machine), SHAPES[shape], parameters, devices)
        assert needed <= 0.88 * gib * GIB or place == len(order) - 1


def test_what_is_set_stays_and_an_unknown_card_counts_as_one_of_80_gib(decided):
    assert decided("1.5B", ONE, 48 * GIB, micro_batch_tokens=16_384) == (16_384, FULL, True)
    assert decided("1.5B", ONE, 80 * GIB, recompute=SELECTIVE, reshard=True) == (26_112, SELECTIVE, True)
    assert decided("1.5B", ONE, None) == decided("1.5B", ONE, 80 * GIB)


def test_layers_are_compiled_where_training_takes_a_minute(monkeypatch):
    """6 operations for each of 1.5 billion parameters: 2e16 are reached after 2.16 million tokens."""
    monkeypatch.setattr(sizing, "describe", lambda _: SHAPES["1.5B"])
    config = Config(loss={"_target_": "losslab.objectives.dft.DFT"}, train=TrainConfig())
    assert config.machine.compile == AUTO
    tokens = {2_159_000: False, 2_160_000: True, None: True}
    assert {n: sizing.resolve(config, ONE, 80 * GIB, n).compile for n in tokens} == tokens
    monkeypatch.setattr(sizing, "can_compile", lambda: False)
    assert not sizing.resolve(config, ONE, 80 * GIB, None).compile


@pytest.mark.parametrize(
    ("rows", "devices", "expected"),
    [
        (4, EIGHT, [(16_384, False)]),  # four of them have a row, and the others none
        (3, Devices(1, 2, gpu=True), [(26_112, False), (16_384, True)]),  # two rows on one of them
        (6, Devices(1, 2, gpu=True), [(26_112, False), (26_112, True)]),
    ],
)
def test_a_row_lies_on_one_device(rows, devices, expected):
    train = TrainConfig(batch_size=rows, max_length=16_384)
    config = Config(
        loss={"_target_": "losslab.objectives.dft.DFT"}, train=train, machine=MachineConfig(micro_batch_tokens=26_112)
    )
    assert list(memory._micro_batches(config, devices, None)) == expected
