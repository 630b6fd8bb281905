"""The stage distill_data: the base's answers with the forwards that revealed them, worked ones, published ones."""

import json
from dataclasses import asdict

import pytest
from fixtures.tiny import CoinJudge, tiny_examples, tiny_setup

from lightningrl.benchmarks.fetch import Origins
from lightningrl.config.distillation import DistillData
from lightningrl.config.experiment import Experiment
from lightningrl.config.reading import read_tree
from lightningrl.decoding.presets import PRESETS
from lightningrl.errors import BenchmarkError, ConfigError, Interrupted, JudgeError
from lightningrl.models.checkpoint import save_model
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.stages import distill_data
from lightningrl.pipeline.stages.context import NO_ORIGINS, StageContext
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


class Silent(Coin):
    """Has no value for anything."""

    def judge(self, examples, responses):
        return [Verdict(False, None, "gold_error") for _ in examples]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Tiny bases of two families and five train problems."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, family in (("base", "sdar"), ("llada", "llada")):
        (folder / name).mkdir()
        setup = tiny_setup(folder / name, family=family)
        ids = {"eos_token_id": setup.tokenizer.eos_token_id, "pad_token_id": setup.tokenizer.pad_token_id}
        save_model(setup.model, folder / name, **ids)
    files.write_jsonl(folder / "data" / "train.jsonl", (asdict(example) for example in tiny_examples("train", 5)))
    return {"base": folder / "base", "llada": folder / "llada", "data": folder / "data"}


def make(stage, inputs, folder, judge="Coin", should_stop=lambda: False, origins=NO_ORIGINS):
    members = dict(stage.members) | ({"judge": f"{__name__}:{judge}"} if "judge" in stage.members else {})
    context = StageContext(
        config={**stage.config, "members": members}, inputs=inputs, folder=folder / "out", state=folder / "state",
        should_stop=should_stop, origins=origins,
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


def test_another_size_of_shards_after_a_stop_loses_and_doubles_no_answer(inputs, tmp_path):
    """The first shard of two problems stays, whatever the size is that the others are made with."""
    expected = [row["uid"] for row in make(stage_of(), inputs, tmp_path)[0]]
    for shard in (1, 3, 9):
        folder = tmp_path / str(shard)
        asked = iter([False, True])
        with pytest.raises(Interrupted):
            make(stage_of(), inputs, folder, should_stop=lambda asked=asked: next(asked))
        rows, summary = make(stage_of(shard=shard), inputs, folder)
        assert [row["uid"] for row in rows] == expected and summary["answers"] == 5
        assert (folder / "state" / "shard-000000-000002.json").is_file()


def test_a_judge_that_fails_stops_the_stage_and_is_asked_again(inputs, tmp_path):
    """Nothing of the shard that it failed over is saved. An answer that has no value is counted and left out."""
    Failing.calls = 0
    with pytest.raises(JudgeError, match=r"the judge failed over 2 answers \(RuntimeError.*mistake"):
        make(stage_of(), inputs, tmp_path, "Failing")
    assert not list((tmp_path / "state").glob("shard-*"))
    rows, summary = make(stage_of(), inputs, tmp_path, "Failing")
    assert [row["uid"][-1] for row in rows] == ["0", "1", "2", "3"]
    assert (summary["answers"], summary["unjudged"], summary["refused"], summary["kept"]) == (5, 1, 0, 4)
    with pytest.raises(JudgeError, match="the judge gave no value to any of 5 answers"):
        make(stage_of(), inputs, tmp_path / "none", "Silent")


def test_a_base_that_the_runs_cannot_train_is_refused_before_anything_is_decoded(inputs, tmp_path):
    """The stage is shared by runs with the same answers, and asks for each; the decoder's error names their key."""
    other = RUN | {"name": "d2", "algorithm": "d2f"}
    both = [run | {"threshold": 0.2, "method": {"data": {"keep": "all"}}} for run in (RUN, other)]
    stage = plan(experiment_of(*both)).stage("distill_data", "dp")
    assert stage.key == plan(experiment_of(both[0])).stage("distill_data", "dp").key
    with pytest.raises(ConfigError, match=r"runs\.d2: d2f teaches a model that sees its whole canvas"):
        make(stage, inputs, tmp_path)
    with pytest.raises(ConfigError, match=r"runs\.dp\.method\.data\.decoding \(over `decoding`\): .*full attention"):
        make(stage_of(decoding={"preset": "mbd"}), {**inputs, "base": inputs["llada"]}, tmp_path)


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
        with pytest.raises(BenchmarkError, match=r"row 0: the fields llm_response are missing; found \['answer', 'que"):
            make(stage_of(source="dataset", dataset=str(folder.parent)), inputs, tmp_path)
        (folder / "train.jsonl").write_text('{"question": "q", "llm_response": 7}\n')
        with pytest.raises(BenchmarkError, match="row 0: no text in llm_response"):
            make(stage_of(source="dataset", dataset=str(folder.parent)), inputs, tmp_path)
        with pytest.raises(BenchmarkError, match=r"is no folder here. Of a data set of the hub, name the `files`"):
            make(stage_of(source="dataset", dataset="Zigeng/dParallel_LLaDA_Distill_Data"), inputs, tmp_path)


def test_a_data_set_is_known_by_the_hash_of_its_rows_wherever_it_is(inputs, tmp_path):
    """`summary.json` says the hash; given in the config, other rows are refused, the place is in no key, and pins are
    satisfied."""
    folders = [tmp_path / name for name in ("one", "two")]
    told = [{"question": "0 pens", "llm_response": "2 figs"}, {"question": "1 cups", "llm_response": "1 cups"}]
    for folder, suffix in zip(folders, ("jsonl", "json"), strict=True):
        folder.mkdir()
        text = json.dumps(told) if suffix == "json" else "".join(json.dumps(row) + "\n" for row in told)
        (folder / f"train.{suffix}").write_text(text)
    data = {"source": "dataset", "dataset": str(folders[0])}
    facts = make(stage_of(**data), inputs, tmp_path)[1]["dataset"]
    assert facts["from"] == "folder" and facts["rows"] == 2 and str(tmp_path) not in json.dumps(facts)
    assert facts["files"]["train.jsonl"]["sha256"] == files.sha256_file(folders[0] / "train.jsonl")
    pinned = [data | {"content_sha256": facts["content_sha256"], "dataset": str(folder)} for folder in folders]
    keys = {stage_of(**each).key for each in pinned}
    assert len(keys) == 1 and stage_of(**data).key not in keys
    trained = {plan(experiment_of(RUN | {"method": {"data": each}})).stage("train", "dp").key for each in pinned}
    assert len(trained) == 1
    strict = Origins(None, tmp_path / "lock", require_pins=True)
    assert make(stage_of(**pinned[1]), inputs, tmp_path, origins=strict)[0]
    with pytest.raises(BenchmarkError, match=r"the folder .*one is pinned by no hash"):
        make(stage_of(**data), inputs, tmp_path, origins=strict)
    (folders[0] / "train.jsonl").write_text(json.dumps(told[0]) + "\n")
    with pytest.raises(BenchmarkError, match=f"expected {facts['content_sha256']}"):
        make(stage_of(**pinned[0]), inputs, tmp_path)


def test_runs_with_the_same_answers_share_a_stage_and_what_does_not_change_them_is_in_no_key():
    """Its decoder only where the base answers; the trainer's keys never; a shard's size never."""
    method = lambda **data: {"data": {"keep": "all"} | data}  # noqa: E731
    other = RUN | {"name": "d3", "algorithm": "d3llm"}
    both = plan(experiment_of(RUN | {"method": method()}, other | {"method": method(shard=3), "steps": 9}))
    assert [stage.name for stage in both.of("distill_data")] == ["dp"]
    inputs = {stage.name: stage.inputs["distilled"].name for stage in both.of("train")}
    assert inputs == {"dp": "dp", "d3": "dp"}
    other = plan(experiment_of(RUN | {"method": method(shard=7)}, other | {"method": method(shard=3), "steps": 9}))
    assert {each.key for each in other.of("train")} == {each.key for each in both.of("train")}
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
