"""The stage distill_data: the base's answers with the forwards that revealed them, worked ones, published ones."""

import json
from dataclasses import asdict

import pytest
from fixtures.tiny import CoinJudge, tiny_examples, tiny_setup

from lightningrl.config.distillation import DistillData
from lightningrl.config.experiment import Experiment
from lightningrl.config.reading import read_tree
from lightningrl.decoding.presets import PRESETS
from lightningrl.errors import BenchmarkError, Interrupted
from lightningrl.models.checkpoint import save_model
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.stages import distill_data
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.tokenization import decode_response, load_tokenizer
from lightningrl.types import Verdict
from lightningrl.utils import files

NANO = PACKAGE.parent / "config" / "nano.yaml"
RUN = {"name": "dp", "role": "rival", "algorithm": "dparallel", "benchmark": "gsm-mini", "steps": 2}


def experiment_of(*runs):
    tree = read_tree(NANO) | {"runs": list(runs), "report": {"tables": [], "figures": []}}
    return Experiment.model_validate(tree)


def stage_of(**data):
    run = RUN | {"threshold": 0.2, "method": {"data": {"keep": "all", "shard": 2} | data}}
    return plan(experiment_of(run)).stage("distill_data", "dp")


class Coin(CoinJudge):
    """Every second problem is answered right. It is made as a benchmark's judge is."""

    def __init__(self, workers=1):
        pass

    def judge(self, examples, responses):
        even = [int(example.uid[-1]) % 2 == 0 for example in examples]
        return [Verdict(right, float(right), "ok" if right else "wrong") for right in even]


class Failing(Coin):
    """Fails over the first shard, and cannot score the last problem."""

    calls = 0

    def judge(self, examples, responses):
        Failing.calls += 1
        if Failing.calls == 1:
            raise RuntimeError("somebody's mistake")
        found = zip(examples, super().judge(examples, responses), strict=True)
        return [Verdict(False, None, "gold_error") if e.uid.endswith("4") else verdict for e, verdict in found]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A tiny base and five train problems."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "base").mkdir()
    setup = tiny_setup(folder / "base")
    ids = {"eos_token_id": setup.tokenizer.eos_token_id, "pad_token_id": setup.tokenizer.pad_token_id}
    save_model(setup.model, folder / "base", **ids)
    files.write_jsonl(folder / "data" / "train.jsonl", (asdict(example) for example in tiny_examples("train", 5)))
    return {"base": folder / "base", "data": folder / "data"}


def make(stage, inputs, folder, judge="Coin", should_stop=lambda: False):
    members = dict(stage.members) | ({"judge": f"{__name__}:{judge}"} if "judge" in stage.members else {})
    context = StageContext(
        config={**stage.config, "members": members}, inputs=inputs, folder=folder / "out", state=folder / "state",
        should_stop=should_stop,
    )  # fmt: skip
    distill_data.run(context)
    return list(files.read_jsonl(folder / "out" / "distilled.jsonl")), files.read_json(folder / "out" / "summary.json")


def test_the_bases_own_greedy_answers_are_judged_and_know_which_forward_revealed_what(inputs, tmp_path):
    rows, summary = make(stage_of(), inputs, tmp_path)
    tokenizer = load_tokenizer(inputs["base"])
    assert [row["uid"] for row in rows] == [example.uid for example in tiny_examples("train", 5)]
    for row in rows:
        assert len(row["order"]) == len(row["response_ids"]) and min(row["order"]) >= 1
        assert decode_response(tokenizer, row["response_ids"]) == row["text"]
    correct = [row for row in rows if row["correct"]]
    assert len(correct) == 3 and summary["correct"] == len(correct) and summary["kept"] == summary["answers"] == 5
    assert summary["token_forwards"] > sum(len(row["response_ids"]) for row in rows)
    (tmp_path / "kept").mkdir()
    assert make(stage_of(keep="correct"), inputs, tmp_path / "kept")[0] == correct
    quota = stage_of(decoding={"selector": "quota"}, threshold=8)
    (tmp_path / "one").mkdir()
    for row in make(quota, inputs, tmp_path / "one")[0]:
        assert len(set(row["order"])) == len(row["order"]), "one token a forward"


def test_interrupted_between_shards_it_goes_on_to_the_same_lines(inputs, tmp_path):
    expected = make(stage_of(), inputs, tmp_path)
    (tmp_path / "cut").mkdir()
    asked = iter([False, True])
    with pytest.raises(Interrupted, match="stopped between two shards; run the same command again"):
        make(stage_of(), inputs, tmp_path / "cut", should_stop=lambda: next(asked))
    assert len(list((tmp_path / "cut" / "state").glob("shard-*.json"))) == 1
    assert make(stage_of(), inputs, tmp_path / "cut") == expected


def test_answers_that_cannot_be_judged_are_counted_and_left_out(inputs, tmp_path):
    rows, summary = make(stage_of(), inputs, tmp_path, "Failing")
    assert [row["uid"][-1] for row in rows] == ["2", "3"]
    assert (summary["answers"], summary["unjudged"], summary["refused"], summary["kept"]) == (5, 3, 0, 2)


def test_worked_answers_end_with_the_end_token_and_have_no_order(inputs, tmp_path):
    stage = stage_of(source="worked", problems=3)
    assert not {"judge", "selector"} & stage.members.keys() and "decoding" not in stage.config
    rows, summary = make(stage, inputs, tmp_path)
    tokenizer = load_tokenizer(inputs["base"])
    assert [row["text"] for row in rows] == [example.solution for example in tiny_examples("train", 3)]
    assert all(row["response_ids"][-1] == tokenizer.eos_token_id and row["order"] is None for row in rows)
    assert summary["token_forwards"] == 0 and summary["kept"] == 3


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_published_data_set_is_read_from_a_folder_of_the_hubs_form(kind, inputs, tmp_path):
    """dParallel's columns; the question went through the chat template, so it is only split into tokens."""
    tokenizer = load_tokenizer(inputs["base"])
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "0 pens"}], tokenize=False, add_generation_prompt=True
    )  # fmt: skip
    told = [{"question": prompt, "llm_response": "2 figs", "more": 1}, {"question": prompt, "llm_response": "1 cups"}]
    folder = tmp_path / "dParallel_LLaDA_Distill_Data" / "data"
    folder.mkdir(parents=True)
    if kind == "jsonl":
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    else:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(told).to_parquet(folder / "train-00000-of-00001.parquet")
    rows, _ = make(stage_of(source="dataset", dataset=str(folder.parent)), inputs, tmp_path)
    assert [row["text"] for row in rows] == ["2 figs", "1 cups"]
    assert tokenizer.decode(rows[0]["prompt_ids"]) == prompt
    assert rows[0]["uid"] == "dParallel_LLaDA_Distill_Data/train/0"
    if kind == "jsonl":
        (folder / "train.jsonl").write_text('{"question": "q", "answer": "a"}\n')
        with pytest.raises(BenchmarkError, match=r"row 0: no text in llm_response; found \['answer', 'question'\]"):
            make(stage_of(source="dataset", dataset=str(folder.parent)), inputs, tmp_path)
        with pytest.raises(BenchmarkError, match=r"is no folder here. Of a data set of the hub, name the `files`"):
            make(stage_of(source="dataset", dataset="Zigeng/dParallel_LLaDA_Distill_Data"), inputs, tmp_path)


def test_runs_with_the_same_answers_share_a_stage_and_what_does_not_change_them_is_in_no_key():
    """Its decoder only where the base answers; the trainer's keys never; a shard's size never."""
    method = lambda **data: {"data": {"keep": "all"} | data}  # noqa: E731
    other = RUN | {"name": "d3", "algorithm": "d3llm"}
    both = plan(experiment_of(RUN | {"method": method()}, other | {"method": method(shard=3), "steps": 9}))
    assert [stage.name for stage in both.of("distill_data")] == ["dp"]
    inputs = {stage.name: stage.inputs["distilled"].name for stage in both.of("train")}
    assert inputs == {"dp": "dp", "d3": "dp"}
    planned = lambda source, at: plan(experiment_of(RUN | {"method": method(source=source), "threshold": at}))  # noqa: E731
    worked, own = (
        {planned(source, at).stage("distill_data", "dp").key for at in (0.5, 0.6)} for source in ("worked", "own")
    )
    assert (len(worked), len(own)) == (1, 2)
    with_adapter = plan(experiment_of(RUN | {"method": method() | {"adapter": {"rank": 2}}})).stage("train", "dp")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(with_adapter.files)


def test_what_changes_no_result_is_in_no_key_however_deep_it_stands():
    """The size of a shard, and the name of a preset whose pieces are the same, within `method.data` of a run."""
    keys = []
    for data in ({"shard": 3}, {"shard": 4}, {"decoding": {"preset": "sdar_dynamic"}},
                 {"decoding": PRESETS["sdar_dynamic"]["decoding"]}, {"keep": "all"}):  # fmt: skip
        planned = plan(experiment_of(RUN | {"method": {"data": data}}))
        keys.append(tuple(planned.stage(kind, "dp").key for kind in ("distill_data", "train")))
    assert keys[0] == keys[1] and keys[2] == keys[3]
    assert len({each[0] for each in keys}) == len({each[1] for each in keys}) == 3


def test_a_runs_own_decoding_is_in_its_key_and_in_nobody_elses():
    usual, own = (
        plan(experiment_of(RUN | more)) for more in ({}, {"decoding": {"selector": "quota"}, "threshold": 0.9})
    )
    assert usual.stage("train", "dp").key != own.stage("train", "dp").key
    assert own.stage("train", "dp").config["decoding"].selector == "quota"
    assert own.stage("distill_data", "dp").key == usual.stage("distill_data", "dp").key
    assert DistillData().source == "own"
