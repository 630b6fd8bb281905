"""The official `openai` client against a running server: answers are those of `LLM.generate`, token for token."""

import numpy as np
import pytest

from lightningrl.inference.policy import policy_of

openai = pytest.importorskip("openai")
NAME = "tiny"
QUESTIONS = ["How many legs have 3 cats?", "Hi", "ünïcödé ☃ 漢字", "x" * 150]


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def say(text):
    return [{"role": "user", "content": text}]


def generated(llm, text, most, **words):
    [completion] = llm.generate([text], policy_of(**words) if words else None, max_new_tokens=most)
    return completion


def test_models(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "lightningrl"


@pytest.mark.parametrize("text", QUESTIONS[:4])
def test_a_chat_answer_is_what_generate_gives_with_its_counts(client, llm, text):
    reply = client.chat.completions.create(model=NAME, messages=say(text), max_tokens=23, logprobs=True)
    expected = generated(llm, text, 23)
    stats, kept = expected.trajectory.stats, expected.trajectory.response_ids[:23]
    [choice] = reply.choices
    assert choice.message.content == llm.tokenizer.decode(kept, skip_special_tokens=True)
    is_cut = expected.trajectory.stop == "length" or expected.trajectory.response_len > 23
    assert choice.finish_reason == ("length" if is_cut else "stop")
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(expected.trajectory.prompt_ids), len(kept))
    assert (usage.denoise_forwards, usage.tpf, usage.tpf_true) == (stats.denoise_forwards, stats.tpf, stats.tpf_true)
    assert (usage.decoded_tokens, usage.prefill_forwards) == (stats.response_tokens, stats.prefill_forwards)
    found = [token.logprob for token in choice.logprobs.content]
    np.testing.assert_allclose(found, expected.trajectory.behaviour_logp[: len(found)], rtol=0, atol=1e-4)
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content


@pytest.mark.parametrize("text", QUESTIONS[:4])
def test_a_stream_brings_the_same_answer_block_by_block(client, llm, text):
    whole = client.chat.completions.create(model=NAME, messages=say(text), max_tokens=40, logprobs=True)
    parts = list(
        client.chat.completions.create(
            model=NAME,
            messages=say(text),
            max_tokens=40,
            stream=True,
            logprobs=True,
            stream_options={"include_usage": True},
        )
    )
    assert parts[0].choices[0].delta.role == "assistant" and parts[-1].usage == whole.usage
    said = [part.choices[0] for part in parts[:-1]]
    assert "".join(choice.delta.content or "" for choice in said) == whole.choices[0].message.content
    assert sum(bool(choice.delta.content) for choice in said) > 3
    assert [choice.finish_reason for choice in said] == [None] * (len(said) - 1) + [whole.choices[0].finish_reason]
    tokens = [token for choice in said for token in (choice.logprobs.content if choice.logprobs else [])]
    assert [t.token for t in tokens] == [t.token for t in whole.choices[0].logprobs.content]


def test_a_seed_draws_what_generate_draws_with_it_and_without_one_answers_differ(client, llm):
    def ask(**more):
        reply = client.chat.completions.create(
            model=NAME, messages=say("Draw"), max_tokens=16, temperature=1.0, top_p=0.9, **more
        )
        return [choice.message.content for choice in reply.choices]

    assert ask(seed=7, n=3) == ask(seed=7, n=3)
    words = {"parameter": 0.9, "temperature": 1.0, "top_p": 0.9, "seed": 7}
    expected = generated(llm, "Draw", 16, **words).trajectory
    assert ask(seed=7) == [llm.tokenizer.decode(expected.response_ids[:16], skip_special_tokens=True)]
    assert len({*ask(seed=7, n=3), *ask(seed=8), *ask(), *ask()}) == 6


def test_a_stop_text_ends_the_answer_before_it_whole_and_streamed(client, llm):
    text = generated(llm, QUESTIONS[1], 60).text
    stop = text[17:20]
    cut = text[: text.index(stop)]
    ask = {"model": NAME, "messages": say(QUESTIONS[1]), "max_tokens": 60, "stop": ["no such text", stop]}
    whole = client.chat.completions.create(**ask)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (cut, "stop")
    parts = list(client.chat.completions.create(**ask, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == cut
    assert whole.usage.completion_tokens < 40, "decoding went on behind the stop text"


def test_text_completions_take_texts_and_token_ids_and_number_their_choices(client, llm):
    reply = client.completions.create(model=NAME, prompt=["One", "Two"], max_tokens=12, n=2, logprobs=0)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert reply.choices[0].text == reply.choices[1].text != reply.choices[2].text
    ids = llm.tokenizer("Two", add_special_tokens=False)["input_ids"]
    request = llm.request(np.array(ids), uid="prompt/0", max_new_tokens=12)
    [expected] = llm.decoder.decode([request], policy_of())
    same = client.completions.create(model=NAME, prompt=ids, max_tokens=12).choices[0].text
    assert same == reply.choices[2].text == llm.tokenizer.decode(expected.response_ids[:12], skip_special_tokens=True)
    found = reply.choices[2].logprobs
    assert "".join(found.tokens) == same and len(found.token_logprobs) == len(found.text_offset) == len(found.tokens)
    assert all(same[at:].startswith(token) for at, token in zip(found.text_offset, found.tokens, strict=True))


def test_turns_of_a_conversation_and_parts_of_a_turn_reach_the_model(client, llm):
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "many?"}]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
             {"role": "assistant", "content": "Yes."}]  # fmt: skip
    ask = {"model": NAME, "max_tokens": 12}
    found = client.chat.completions.create(messages=[*turns, {"role": "user", "content": parts}], **ask)
    [expected] = llm.generate([[*turns, {"role": "user", "content": "How many?"}]], max_new_tokens=12)
    assert found.choices[0].message.content == llm.tokenizer.decode(
        expected.trajectory.response_ids[:12], skip_special_tokens=True
    )


def test_the_threshold_of_one_request_is_its_own(client):
    def forwards(**more):
        reply = client.chat.completions.create(model=NAME, messages=say("Hi"), max_tokens=40, extra_body=more)
        return reply.usage.denoise_forwards

    assert forwards(threshold=0.05) < forwards() == forwards(threshold=0.9)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "this server has 'tiny'"),
        ({"max_tokens": 5000}, openai.BadRequestError, "the context of this server is 256 positions"),
        ({"messages": say("x" * 400)}, openai.BadRequestError, "the prompt has 419 tokens"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "not support tools"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "not support response_format"),
        ({"logprobs": True, "top_logprobs": 5}, openai.BadRequestError, "not support top_logprobs"),
        ({"temperature": 3.0}, openai.BadRequestError, "temperature: Input should be less than or equal to 2"),
        ({"stop": ["a"] * 5}, openai.BadRequestError, "at most 4 texts"),
        ({"stop": [""]}, openai.BadRequestError, "none of them empty"),
        ({"n": 17}, openai.BadRequestError, "n: Input should be less than or equal to 16"),
        ({"messages": []}, openai.BadRequestError, "messages: List should have at least 1 item"),
        ({"extra_body": {"treshold": 0.5}}, openai.BadRequestError, "treshold: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_done_is_an_error_of_the_api(client, more, error, message):
    with pytest.raises(error, match=message):
        client.chat.completions.create(**({"model": NAME, "messages": say("Hi"), "max_tokens": 4} | more))


def test_what_changes_no_answer_is_accepted(client):
    same = {"frequency_penalty": 0, "tool_choice": "none", "response_format": {"type": "text"}, "user": "me"}
    assert client.chat.completions.create(model=NAME, messages=say("Hi"), max_tokens=4, **same).choices
