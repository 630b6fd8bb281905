"""`config.json`: what is read, what is refused, and that the message names the file, the finding and the way out."""

import json

import pytest
from fixtures.official import official_config, write_official_config

from lightningrl.errors import CheckpointError
from lightningrl.models.config_file import family_named, read_config

GIVEN = {"block_size": 4, "mask_token_id": 151669}


@pytest.fixture
def folder(tmp_path):
    """The official 4B config with the two facts of ours."""
    return write_official_config(tmp_path / "model", **GIVEN)


def edit(folder, remove=(), **changes):
    raw = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if key not in remove}))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{}", b'{"model_type": "sdar"', b"[]", b"null", b"[" * 100_000]
)
def test_damaged_config_is_refused_by_name(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        read_config(folder)


def test_what_is_no_checkpoint_folder_is_refused_with_the_way_out(folder, tmp_path):
    (tmp_path / "other" / "config.json").mkdir(parents=True)
    for path, message in (
        (tmp_path / "nowhere", r"nowhere is missing, expected the folder of a checkpoint.*download it first .hf downl"),
        (folder / "config.json", r"config\.json is a file, expected the folder of a checkpoint"),
        (tmp_path, r"is not a checkpoint: config\.json is missing"),
        (tmp_path / "other", r"config\.json cannot be read: Is a directory"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_config(path)


@pytest.mark.parametrize(("key", "value"), [("block_size", 8), ("mask_token_id", 20)])
@pytest.mark.parametrize("absent", ["no key", "null"])
def test_a_fact_the_official_files_lack_is_asked_for_and_taken_from_the_caller(folder, key, value, absent):
    with pytest.raises(CheckpointError, match=f"says {key} {GIVEN[key]}, the caller {value}: they must agree"):
        read_config(folder, **{key: value})
    assert read_config(folder, **GIVEN) == read_config(folder)
    edit(folder, **({"remove": [key]} if absent == "no key" else {key: None}))
    with pytest.raises(CheckpointError, match=f"lacks {key} .*leave block_size and mask_token_id to the caller: give"):
        read_config(folder)
    assert getattr(read_config(folder, **{key: value}), key) == value


@pytest.mark.parametrize(
    "key", ["vocab_size", "rope_theta", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps"]
)
def test_no_default_stands_in_for_an_absent_key(folder, key):
    """The class defaults of the official config are wrong for every released checkpoint."""
    edit(folder, remove=[key])
    with pytest.raises(CheckpointError, match=f"lacks {key}$"):
        read_config(folder)


ROPE = {"rope_type": "default", "rope_theta": 1000000}
WHOLE, POSITIVE = "expected a whole number of 1 or more", "expected a number above 0"
REFUSED = [
    *((key, value, rf"config\.json: {key} .*(only|expected one of 'sdar')") for key, value in (
        ("tie_word_embeddings", True), ("attention_bias", True), ("hidden_act", "gelu"),
        ("rope_scaling", {"factor": 2.0}), ("model_type", "gpt2"), ("model_type", "sdar_moe"), ("model_type", None),
        ("use_sliding_window", True), ("quantization_config", {"bits": 4}),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("rope_parameters", ROPE | {"rope_type": "yarn", "factor": 4.0}),
        ("rope_parameters", ROPE | {"partial_rotary_factor": 0.5}), ("rope_parameters", {"full_attention": ROPE}),
    )),
    ("rope_parameters", ROPE | {"rope_theta": 1e4}, r"rope_theta 1000000 and, in rope_parameters, 10000\.0"),
    ("layer_types", 5, "layer_types is 5"),
    *(("block_size", value, WHOLE) for value in (0, -4, "4", 2.5, True)),
    *(("hidden_size", value, WHOLE) for value in (0, "2560", 2560.0)),
    *(("mask_token_id", value, f"mask token {value} outside the vocabulary of 151936") for value in (151936, -1, "x")),
    *(("rope_theta", value, POSITIVE) for value in (0, -1.0, "1e6", True, float("inf"))),
    ("rms_norm_eps", float("nan"), POSITIVE),
    ("num_key_value_heads", 5, "32 attention heads, 5 key/value heads; expected a multiple"),
    ("head_dim", 127, "expected an even number"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_variants_that_the_model_class_has_not_and_values_out_of_range_are_refused(folder, key, value, message):
    edit(folder, **{key: value})
    with pytest.raises(CheckpointError, match=message):
        read_config(folder)
    if key == "model_type":
        with pytest.raises(CheckpointError, match=f"^model_type is {value!r}, expected one of 'sdar', 'qwen3'"):
            family_named(value)


def test_a_sliding_window_is_refused_unless_it_is_switched_off(folder):
    edit(folder, sliding_window=4096)
    read_config(folder)
    edit(folder, remove=["use_sliding_window"])
    with pytest.raises(CheckpointError, match="sliding_window is 4096"):
        read_config(folder)


def test_the_spelling_of_newer_transformers_means_the_same(folder, tmp_path):
    raw = official_config(
        model_type="qwen3", dtype="bfloat16", layer_types=["full_attention"] * 36, rope_parameters=ROPE, **GIVEN
    )
    for key in ("rope_theta", "rope_scaling", "torch_dtype"):
        del raw[key]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert read_config(tmp_path) == read_config(folder)
