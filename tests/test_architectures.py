"""Every decoder of transformers, as a tiny random model, beside its own forward over each sequence alone."""

import re
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import tiny_models
import torch.distributed as dist
import transformers
from conftest import ROOT

TABLE = dict(re.findall(r"^\| ([\w-]+) \| ([\w ]+) \|", (ROOT / "docs/architectures.md").read_text(), re.M))
FAMILIES = sorted(set(TABLE) & set(transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory):
    """A process group of this process."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    file = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    transformers.logging.set_verbosity(verbosity)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_exactly_or_refused(family):
    judged = tiny_models.judge(family)
    assert judged.result == TABLE[family], judged
    assert (judged.result == tiny_models.PACKED) == (judged.sentence == "")


def test_the_table_has_the_decoders_of_transformers():
    spec = spec_from_file_location("make_architectures", ROOT / "docs/make_architectures.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    assert len(FAMILIES) >= 60
    if transformers.__version__.startswith("5.19"):  # another version has others
        assert set(script.families()) == set(TABLE)
    assert tiny_models.SILENT not in TABLE.values()
