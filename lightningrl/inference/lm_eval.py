"""The decoder as a model of EleutherAI's lm-evaluation-harness, generating and by likelihood (extra `lm-eval`).

The harness has no way to find models of other packages, so this module is imported first: `python -m
lightningrl.inference.lm_eval` is its own command line with the model `lightningrl` added; in Python, import
`BlockDiffusionLM` and give it to `lm_eval.simple_evaluate`. Tasks that compare log-probabilities of given texts are
answered by `inference.likelihood`; those of whole documents (perplexity) are refused. Imported by nothing else here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import MutableMapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from lightningrl.config.registries import usable
from lightningrl.decoding.protocol import Request
from lightningrl.decoding.tpf_variants import views
from lightningrl.errors import ConfigError, DecodeError
from lightningrl.inference.harness_answers import Answer, key_of
from lightningrl.inference.likelihood import BOUND, LEFT_TO_RIGHT, METHODS, encode_continuation, log_likelihoods
from lightningrl.inference.llm import LLM, PLUG_IN
from lightningrl.inference.policy import policy_of, require_fitting
from lightningrl.tokenization import encode_texts
from lightningrl.types import DecodeStats, Stop
from lightningrl.utils.registry import resolve

MAX_GEN_TOKS = 256
"""The harness's own default for tasks that name no length."""
GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
DTYPES = {"stored": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_log = logging.getLogger(__name__)


@register_model("lightningrl")
class BlockDiffusionLM(LM):
    """`--model lightningrl --model_args pretrained=FOLDER,block_size=32,threshold=0.9`.

    pretrained: a checkpoint's folder. block_size: needed for checkpoints that do not name it. dtype: stored, float32,
    bfloat16, float64. decoder, or preset: a published decoder by its name (`lightningrl decoders`). threshold: the
    selector's parameter; default: what the decoder was published with, else 0.9. batch_size: rows decoded together.
    adapter: the folder of a LoRA. plugins: a module that adds names, as a config's `plugins` do. likelihood: how tasks
    of log-likelihoods are scored (`inference.likelihood`: bound, left_to_right); samples: its states a segment. Other
    arguments are those of `policy_of` (selector, ranking, schedule, stop, and their options as mappings or JSON). A
    task's settings (`until`, `max_gen_toks`, `temperature`, `do_sample`, `top_k`, `top_p`) are followed; without
    `do_sample` decoding is greedy.
    """

    def __init__(
        self,
        pretrained: str,
        block_size: int | None = None,
        dtype: str = "stored",
        device: str | None = None,
        batch_size: int | str = 64,
        threshold: float | None = None,
        seed: int = 0,
        max_gen_toks: int = MAX_GEN_TOKS,
        max_batch_size: int | None = None,
        plugins: str | Sequence[str] = (),
        adapter: str | None = None,
        decoder: str = "",
        preset: str = "",
        likelihood: str = BOUND,
        samples: int = 128,
        **components: Any,
    ) -> None:
        super().__init__()
        if likelihood not in METHODS or int(samples) < 1:
            told = f"found {likelihood!r} with {samples} samples"
            raise ConfigError(f"likelihood: {told}, allowed: {', '.join(METHODS)}, samples of 1 or more")
        self._likelihood, self._samples, self._seed = likelihood, int(samples), int(seed)
        if dtype not in DTYPES:
            raise ConfigError(f"dtype: found {dtype!r}, allowed: {', '.join(DTYPES)}")
        if drawing := sorted(components.keys() & GREEDY):
            raise ConfigError(f"model_args: found {', '.join(drawing)}; say it with do_sample=True in --gen_kwargs")
        if decoder and preset and decoder != preset:
            raise ConfigError(f"model_args: found decoder={decoder} and preset={preset}, two names of one thing")
        resolve(PLUG_IN)(plugins)
        require_fitting(pretrained, preset := preset or decoder)
        words = {name: _read(name, value) for name, value in components.items()}
        words |= {"parameter": None if threshold is None else float(threshold), "seed": int(seed), "preset": preset}
        self._policy = cache(partial(policy_of, **words, plugins=usable(plugins)))
        """Equal settings share one object, and so rows share work."""

        self._policy(**GREEDY)  # wrong arguments are reported now
        rows = max_batch_size or 64 if isinstance(batch_size, str) and not batch_size.isdigit() else int(batch_size)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.llm = LLM(
            pretrained, block_size=block_size, adapter=adapter, dtype=DTYPES[dtype], device=place, rows=rows,
            plugins=plugins,
        )  # fmt: skip
        self._max_gen_toks = int(max_gen_toks)
        self._cost: list[tuple[DecodeStats, Stop]] = []
        """What each response so far cost, and how it ended."""

        self.answers: MutableMapping[str, Answer] = {}
        """All answers so far. An `AnswerFile` in its place keeps them, and those that it has are not decoded again."""

    @property
    def tokenizer_name(self) -> str:
        return str(self.llm.folder)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.llm.tokenizer.chat_template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.llm.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )  # fmt: skip

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Returns the text of each request, cut before the first of its stop strings.

        Raises DecodeError when a request cannot be decoded.
        """
        first, asked = len(self._cost), [tuple[Any, ...](each.args) for each in requests]
        keys = [key_of(first + n, *arguments) for n, arguments in enumerate(asked)]
        missing = [n for n, key in enumerate(keys) if key not in self.answers]
        for result in self.llm.stream([self._request(first + n, *asked[n]) for n in missing]):
            if (found := result.trajectory) is None:
                raise DecodeError(str(result.error))
            self.answers[keys[missing[result.index]]] = Answer(self.llm.text(found), found.stats, found.stop)
        answers = [self.answers[key] for key in keys]
        for each in answers:
            self._cost.append((each.stats, each.stop))
        texts = [
            _cut(each.text, arguments[1].get("until") or []) for each, arguments in zip(answers, asked, strict=True)
        ]
        figures = self.figures()
        _log.info("%s responses, tpf %.3f, %.1f forwards each", *(figures[k] for k in ("responses", "tpf", "forwards")))
        return texts

    def figures(self) -> dict[str, float]:
        """Returns what the answers of all calls cost: their number (`responses`), and once there are any, pooled tpf
        and tpf_true, mean forwards and tokens, and what `decoding.tpf_variants.views` returns.

        What a stop string cut off counts too, because it was decoded.
        """
        if not self._cost:
            return {"responses": 0}
        stats, stops = zip(*self._cost, strict=True)
        tokens, forwards = sum(s.response_tokens for s in stats), sum(s.denoise_forwards for s in stats)
        return {
            "responses": len(stats),
            "tpf": tokens / forwards,
            "tpf_true": tokens / (forwards + sum(s.commit_forwards for s in stats)),
            "forwards": forwards / len(stats),
            "tokens": tokens / len(stats),
            **{name: value for name, value in views(stats, stops).items() if value is not None},
        }

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Returns for each (context, continuation) its log-likelihood in nats, and whether it is what the model reveals
        greedily from left to right.

        Raises DecodeError for a pair that the model has no positions for, or whose words the tokenizer does not know.
        """
        tokenizer = self.llm.tokenizer
        pairs = [encode_continuation(tokenizer, *each.args) for each in requests]
        if tokenizer.unk_token_id is not None and any((pair.ids == tokenizer.unk_token_id).any() for pair in pairs):
            raise DecodeError("the tokenizer does not know all words of this task: the model would not see them")
        found = greedy = log_likelihoods(self.llm.model, pairs, self._likelihood, self._samples, self._seed)
        if any(each.is_greedy is None for each in found):
            greedy = log_likelihoods(self.llm.model, pairs, LEFT_TO_RIGHT)
        return [(each.logp, bool(turn.is_greedy)) for each, turn in zip(found, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        raise NotImplementedError(
            "tasks with output_type loglikelihood_rolling, the perplexity of whole documents, are not offered: a bound "
            "by drawn masks of a whole document is too loose to be compared with a perplexity. Take tasks with "
            "output_type loglikelihood, multiple_choice or generate_until."
        )

    def _request(self, number: int, context: str, settings: dict[str, Any]) -> Request:
        tokenizer = self.llm.tokenizer
        ids = encode_texts(tokenizer, [context])[0]
        if tokenizer.unk_token_id is not None and (ids == tokenizer.unk_token_id).any():
            raise DecodeError("the tokenizer does not know all words of this task: the model would not see them")
        is_drawn = settings.get("do_sample", settings.get("temperature", 0.0) > 0)
        found = GREEDY | ({"temperature": 1.0} | settings if is_drawn else {})
        drawing = {name: type(value)(found[name]) for name, value in GREEDY.items()}
        policy, longest = self._policy(**drawing), int(settings.get("max_gen_toks", self._max_gen_toks))
        usable = self.llm.tokens_left(0, policy)
        room = usable - min(longest, usable // 2)
        if len(ids) > room:  # as the harness does with other models: the beginning is cut off
            _log.warning("a prompt of %d tokens is cut to its last %d", len(ids), room)
            ids = ids[-room:]
        longest = self.llm.tokens_left(len(ids), policy, longest)
        return self.llm.request(ids, uid=f"lm-eval/{number}", max_new_tokens=longest, policy=policy)


def _read(name: str, value: Any) -> Any:
    """Returns an argument of `policy_of`: options that come as text, from the harness's command line, are JSON."""
    if not isinstance(value, str) or not (name == "options" or name.endswith("_options")):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ConfigError(f"model_args: {name} is {value!r}, which is no JSON: {error}") from None


def _cut(text: str, until: str | Sequence[str]) -> str:
    stops = [until] if isinstance(until, str) else until
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places, default=None)]


def main() -> None:
    """Runs the harness's command line."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
