"""What quantised systems are compared with: what decodes alike, looks at the same data, is called the same."""

from __future__ import annotations

import pytest
from test_systems import NANO, experiment

from lightningrl.config.counterparts import FLOAT, counterparts
from lightningrl.config.experiment import load
from lightningrl.decoding.presets import PRESETS
from lightningrl.quantization import registry, values
from lightningrl.quantization.registry import QUANTIZERS, bits_of
from lightningrl.utils.registry import resolve

RTN = {"quantizer": {"name": "rtn", "bits": 4}}


def found(*systems, **keys):
    made = experiment(*systems, **keys)
    return counterparts(made.all_systems(), made.benchmarks)


def test_a_system_is_compared_with_what_answers_as_long_as_it_does():
    long, float_too = {"max_new_tokens": 16}, {"name": "longer", "policy": "base", "max_new_tokens": 16}
    alone = found({"name": "w4", "policy": "base"} | RTN | long)
    assert alone["w4"]["exact"] == "" and "base" not in alone
    both = found({"name": "w4", "policy": "base"} | RTN | long, float_too)
    assert both["w4"]["exact"] == "longer" and both["longer"]["setting"] == FLOAT
    same = found({"name": "w4", "policy": "base", "max_new_tokens": 24} | RTN)
    assert same["w4"]["exact"] == "base", "24 is what both benchmarks say"
    trained = {"name": "ours-w4", "policy": "lightningrl"} | RTN
    pair = found({"name": "w4", "policy": "base"} | RTN | long, trained)
    assert pair["ours-w4"]["counterpart"] == ""
    assert found({"name": "w4", "policy": "base"} | RTN, trained)["ours-w4"]["counterpart"] == "w4"


def test_of_several_the_one_with_the_same_thresholds_is_taken():
    few = {"thresholds": [0.3], "policy": "base"}
    told = found({"name": "few", **few}, {"name": "w4", **few, **RTN}, {"name": "w4-usual", "policy": "base", **RTN})
    assert (told["w4"]["exact"], told["w4-usual"]["exact"]) == ("few", "base")
    assert found({"name": "w4", **few, **RTN})["w4"]["exact"] == "base", "another sweep is better than none"


def test_a_decoder_is_the_same_however_it_is_spelt():
    spelt = dict(PRESETS["sdar_dynamic"]["decoding"])
    told = found(
        {"name": "dynamic", "policy": "base", "decoding": {"preset": "sdar_dynamic"}},
        {"name": "w4", "policy": "base", "decoding": spelt, **RTN},
    )
    assert told["w4"]["exact"] == "dynamic"


def test_a_quantizer_that_looked_at_other_data_is_no_counterpart():
    def told(mine, base, policy="lightningrl", **more):
        entries = [
            {"name": "w4", "policy": "base", "quantizer": {"name": "gptq", "calibration": base}},
            {"name": "x", "policy": policy, "quantizer": {"name": "gptq", "calibration": mine}, **more},
        ]
        return found(*entries)["x"]["counterpart"]

    assert told({}, {}) == "w4", "both look at gsm-mini"
    assert told({}, {"benchmark": "gsm-mini"}) == "w4", "however it is spelt"
    assert told({"benchmark": "code-mini"}, {}) == "" == told({}, {}, "lightningrl-code")
    assert told({}, {"benchmark": "code-mini"}, "lightningrl-code") == "w4"
    assert told("clean", "decode") == "" and told({"problems": 3}, {}) == ""
    lower = {"primary_threshold": 0.02}
    assert told("decode", "decode", **lower) == "", "at another threshold its decoder visits other states"
    assert told("clean", "clean", **lower) == "w4"


def test_calibration_needs_train_problems_of_some_benchmark():
    tree = load(NANO).model_dump(mode="json", exclude_unset=True)
    none = [each | {"train": 0} for each in tree["benchmarks"]]
    gptq = {"name": "x", "policy": "base", "quantizer": "gptq"}
    with pytest.raises(ValueError, match=r"systems\.x\.quantizer\.calibration: no benchmark has train problems"):
        experiment(gptq, benchmarks=none, runs=[], report={"tables": [], "figures": [], "replays": []})


def test_a_setting_is_called_as_its_entry_is_for_every_seed_of_a_series():
    runs = load(NANO).model_dump(mode="json", exclude_unset=True)["runs"]
    runs[1] = {key: value for key, value in runs[1].items() if key not in ("seed", "series")} | {"seeds": [3, 4]}
    told = found({"name": "w4", "policies": ["base", "grpo-traj"], **RTN}, runs=runs)
    assert {told[name]["setting"] for name in ("base-w4", "grpo-traj-w4-3", "grpo-traj-w4-4")} == {"w4"}
    assert (told["grpo-traj-w4-3"]["exact"], told["grpo-traj-w4-3"]["counterpart"]) == ("grpo-traj-3", "base-w4")
    alone = found({"name": "eight", "policy": "lightningrl", "quantizer": "rtn"})
    assert alone["eight"]["setting"] == "eight" and alone["lightningrl"]["setting"] == FLOAT


def test_the_registry_knows_the_bits_that_quantizers_have_by_default():
    assert registry.UNROUNDED == values.UNROUNDED
    for name, reference in QUANTIZERS.items():
        made = resolve(reference)()
        usual = [getattr(made, key, values.UNROUNDED) for key in ("bits", "activation_bits", "kv_bits")]
        assert list(bits_of(name, {}).values()) == usual, name
    assert bits_of("quarot", {"bits": 4, "kv_bits": 4}) == {"bits": 4, "activation_bits": 8, "kv_bits": 4}
    for name in ("smoothquant", "duquant"):
        assert bits_of(name, {"compat": True, "activation_bits": 6})["kv_bits"] == 6, "published so"
