"""A small word tokenizer that reproduces its texts exactly, in the Hugging Face folder format; prompts and responses.

The miniature's model trains from scratch in minutes, so its vocabulary holds just the words of its benchmarks. The
folder has no code of ours: `transformers.AutoTokenizer` loads it as it loads a published model's, and `load_tokenizer`
takes both. Text outside the vocabulary becomes `<|unk|>`: this is no general-purpose tokenizer.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightningrl.errors import BenchmarkError, CheckpointError
from lightningrl.utils.files import write_json

SPECIAL_TOKENS = ("<|unk|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|MASK|>")
UNK, PAD, IM_START, IM_END, MASK = SPECIAL_TOKENS
"""The end of the vocabulary, in this order: the mask is the last id."""

PIECE_PATTERN = (
    r" ?\\boxed\{|```python|```"  # markers that must not fall apart
    r"| ?[A-Za-z_]+| ?[0-9]| ?[^\sA-Za-z0-9]"  # words, single digits, single signs; a blank sticks to what follows
    r"|\s"  # remaining white space, one character each
)
ALWAYS_KNOWN = ("system", "user", "assistant", "\n", " ", *"0123456789", *(f" {digit}" for digit in range(10)))
"""Pieces in the vocabulary whatever the texts: the roles, white space, every number."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str], out_dir: Path) -> None:
    """Write the tokenizer of these texts (all message contents and solutions) to `out_dir`; the same set of texts gives
    the same bytes. The chat template is in tokenizer_config.json."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.Split(Regex(PIECE_PATTERN), behavior="isolated")
    pieces = set(ALWAYS_KNOWN)
    for text in set(texts):
        pieces.update(piece for piece, _ in split.pre_tokenize_str(text))
    vocabulary = {piece: i for i, piece in enumerate((*sorted(pieces), *SPECIAL_TOKENS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    special = {"unk_token": UNK, "pad_token": PAD, "eos_token": IM_END, "mask_token": MASK}
    config = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": [IM_START],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
    }
    write_json(out_dir / "tokenizer.json", json.loads(tokenizer.to_str()))
    write_json(out_dir / "tokenizer_config.json", config)
    write_json(out_dir / "special_tokens_map.json", special | {"additional_special_tokens": [IM_START]})


OWN_CLASSES = {"DreamTokenizer": "qwen2"}
"""Classes of tokenizers that published folders bring as code of their own -> the model type in transformers whose
tokenizer reads the same files to the same ids."""


def load_tokenizer(path: Path) -> Any:
    """The tokenizer (a PreTrainedTokenizerFast) of a local model folder, ours or a published one; runs no code from it.

    Where it names no mask token, as LLaDA's does, it is the one whose id config.json beside it says. It may be None:
    autoregressive models have none, and Fast-dLLM v2's is named nowhere but in the family. Raises CheckpointError when
    files are missing or damaged, or it has no end token or chat template.
    """
    path = Path(path)
    for names in (("tokenizer_config.json",), ("tokenizer.json", "vocab.json", "tokenizer.model")):
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise CheckpointError(
                f"{path} is no tokenizer folder: {' or '.join(names)} is missing. Give the folder of a checkpoint "
                "with its tokenizer."
            )
        for file in found:
            if file.suffix == ".json":
                _require_json(file)
    from transformers import AutoTokenizer, logging

    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that it knows no model type `sdar`, which the tokenizer does not need
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            own = OWN_CLASSES.get(str(_require_json(path / "tokenizer_config.json").get("tokenizer_class")))
            as_type = {} if own is None else {"tokenizer_type": own}
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False, **as_type)
    except Exception as error:  # of damaged files that are JSON still it raises anything
        raise CheckpointError(f"the tokenizer in {path} cannot be loaded: {error!r}. Restore its files.") from error
    finally:
        logging.set_verbosity(loud)
    if tokenizer.mask_token_id is None:
        tokenizer.mask_token = _mask_token(tokenizer, path / "config.json")
    for what, value in (
        ("end token (eos)", tokenizer.eos_token_id),
        ("chat template", tokenizer.chat_template),
    ):
        if value is None:
            raise CheckpointError(
                f"the tokenizer in {path} has no {what}; decoding needs it. Add it to tokenizer_config.json, or take a "
                "checkpoint that was made for chat."
            )
    return tokenizer


def _mask_token(tokenizer: Any, config: Path) -> str | None:
    """The token whose id config.json calls the mask's; None where there is no such file, key or token."""
    try:
        token_id = json.loads(config.read_text(encoding="utf-8")).get("mask_token_id")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return tokenizer.convert_ids_to_tokens(token_id) if token_id in range(len(tokenizer)) else None


def _require_json(file: Path) -> dict[str, Any]:
    """The file's content. Raises CheckpointError where it is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or (file.name == "tokenizer.json" and "model" not in value):
            raise ValueError("not the content of such a file")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged ({error}). Copy or build the folder again.") from error
    return value


def check_mask(mask_token_id: int, tokenizer: Any, path: Path) -> None:
    """Raises CheckpointError where the model's mask token is none of the tokenizer's tokens, or another one than the
    tokenizer names. mask_token_id: below 0 where the model has none."""
    named, tokens = tokenizer.mask_token_id, len(tokenizer)
    if mask_token_id >= tokens or (named is not None and mask_token_id not in (named, -1)):
        raise CheckpointError(
            f"{path}: the model's mask token is {mask_token_id}, and the tokenizer has {tokens} tokens and names "
            f"{'none' if named is None else named}: it is another checkpoint's. Restore the tokenizer's files."
        )


def prompt_text(tokenizer: Any, messages: Sequence[dict[str, str]], compat: bool = False) -> str:
    """One conversation as text: chat template with generation prompt, then a last turn of the assistant's, verbatim.

    compat: as the published code renders it. Its template engine drops one newline at the very end, and a thought that
    has begun follows the role without one.
    """
    turns = list(messages)
    begun = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    if compat and begun == "<think>":
        text = text.removesuffix("\n")
    text += begun
    return text.removesuffix("\n") if compat else text


def encode_prompts(
    tokenizer: Any, conversations: Sequence[Sequence[dict[str, str]]], compat: bool = False
) -> list[np.ndarray]:
    """Each conversation's [P] int64 token ids: `prompt_text`, nothing else added."""
    texts = [prompt_text(tokenizer, messages, compat) for messages in conversations]
    rows = encode_texts(tokenizer, texts)
    unknown = tokenizer.unk_token_id
    for text, row in zip(texts, rows, strict=True):
        if unknown is not None and (row == unknown).any():
            offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            words = {text[slice(*offsets[i])].strip() for i in np.flatnonzero(row == unknown)}
            raise BenchmarkError(
                f"the tokenizer does not know {', '.join(map(repr, sorted(words)))}: the model would not see it. Use "
                "other words, or a tokenizer built from texts that have these (the miniature's has its benchmarks' "
                "words only)."
            )
    return rows


def encode_prompt(tokenizer: Any, messages: Sequence[dict[str, str]]) -> np.ndarray:
    """[P] int64 token ids of one conversation; equal to its row in `encode_prompts`."""
    return encode_prompts(tokenizer, [messages])[0]


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """Each text's int64 token ids, no special tokens added (solutions for supervised training)."""
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [np.asarray(row, dtype=np.int64) for row in rows]


TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
"""What a checkpoint may have beside its weights and config.json; no file of code."""


def stop_token_ids(tokenizer: Any, folder: Path | None = None, named: Sequence[str] = ()) -> list[int]:
    """What ends a response: the end token, the pad, what generation_config.json of the checkpoint's folder says, and
    the tokens `named`, which are the family's, where the tokenizer has them.

    The official tokenizers name only the pad; their generation_config.json has the end of a turn too. The pad ends it
    because models of blocks are trained to fill the last block with pads: one that pads without an end token would be
    paid for whole blocks of it, each revealed in one forward. Raises CheckpointError when that file is damaged.
    """
    found = {int(token) for token in (tokenizer.eos_token_id, tokenizer.pad_token_id) if token is not None}
    known = {token: tokenizer.convert_tokens_to_ids(token) for token in named}
    found |= {token_id for token_id in known.values() if token_id not in (None, tokenizer.unk_token_id)}
    path = folder / "generation_config.json" if folder else None
    if path is not None and path.is_file():
        try:
            said: Any = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") or []
            found |= {int(token) for token in (said if isinstance(said, list) else [said])}
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged: {error}. Restore it, or delete it.") from None
    return sorted(found)


def decode_response(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> str:
    """The text of response ids, special tokens left out."""
    return tokenizer.decode([int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def text_pieces(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[str]:
    """Each token's part of the decoded text; together they are it.

    Byte-level tokens can end inside a character: its text is that of the token that completes it, "" that of the
    others.

    >>> text_pieces(lambda ids: bytes(ids).decode(errors="replace"), [*"aé".encode(), 98])
    ['a', '', 'é', 'b']
    """
    pieces = []
    start = done = 0  # the tokens from `start` on are decoded, those before `done` have their text
    for end in range(1, len(ids) + 1):
        text, known = decode(list(ids[start:end])), decode(list(ids[start:done]))
        if text.endswith("\ufffd") and end < len(ids):
            pieces.append("")
        else:
            pieces.append(text[len(known) :])
            start, done = done, end
    return pieces
