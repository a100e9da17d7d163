"""A byte-level tokenizer in GGUF's words: tokens, merges, and its splitting rule."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf

from stillhouse.exchanges import InputError
from stillhouse.teachers.weights import end_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False}
# What llama.cpp calls a splitting rule, the parts of tokenizer.json that say the same, and whether
# words that are tokens are then taken without merging.
_RULES: tuple[tuple[str, tuple[dict[str, Any], ...], bool], ...] = (
    ("gpt-2", ({**_BYTES, "use_regex": True},), False),
    (
        "smollm",
        ({"type": "Digits", "individual_digits": True}, {**_BYTES, "use_regex": True}),
        False,
    ),
    (
        "llama-bpe",
        ({"type": "Split", "pattern": {"Regex": _LLAMA3}}, {**_BYTES, "use_regex": False}),
        True,
    ),
    (
        "qwen2",
        (
            {"type": "Split", "pattern": {"Regex": _LLAMA3.replace("{1,3}", "")}},
            {**_BYTES, "use_regex": False},
        ),
        False,
    ),
)


def add_tokens(writer: Any, model: Any, tokenizer: Any) -> None:
    """Add the tokenizer, its special tokens and the template; raises `InputError` where GGUF's
    splitting rules have none that says what this tokenizer does.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else None
    rule = None if core is None else _rule(core)
    if core is None or rule is None:
        splits = "none" if core is None else json.dumps(core.get("pre_tokenizer"))[:200]
        raise InputError(
            f"no splitting rule of llama.cpp says what this tokenizer does ({splits})",
            repair="export to ONNX; byte-level tokenizers that split like GPT-2, SmolLM, Llama 3"
            " or Qwen 2 can be written as GGUF",
        )
    names: dict[int, str] = {number: token for token, number in core["model"]["vocab"].items()}
    added = {token["id"]: token for token in core["added_tokens"]}
    names |= {number: token["content"] for number, token in added.items()}
    rows = int(model.get_input_embeddings().weight.shape[0])
    tokens, kinds = [], []
    for number in range(rows):
        tokens.append(names.get(number, f"[PAD{number}]"))
        if number not in names:
            kinds.append(gguf.TokenType.UNUSED)
        elif number not in added:
            kinds.append(gguf.TokenType.NORMAL)
        else:
            special = added[number]["special"]
            kinds.append(gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(_pair(merge)) for merge in core["model"]["merges"]])
    ends = end_ids(model, tokenizer)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if ends:
        # A student is trained to end its turn with the tokenizer's own end, where it is one.
        first = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]
        writer.add_eos_token_id(first)
        for other in ends:
            if other != first:
                writer.add_eot_token_id(other)
                break
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    # The template writes whatever stands before a prompt; the engine must not add to it.
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _rule(core: Any) -> str | None:
    model, splitting = core["model"], core.get("pre_tokenizer")
    if model["type"] != "BPE" or splitting is None or model.get("byte_fallback"):
        return None
    parts = splitting["pretokenizers"] if splitting["type"] == "Sequence" else [splitting]
    normalised = core.get("normalizer")
    for name, wanted, whole_words in _RULES:
        # Qwen 2 composes its text first; llama.cpp takes it as it comes.
        plain = normalised is None or (name == "qwen2" and normalised == {"type": "NFC"})
        same = len(parts) == len(wanted) and all(map(_says, parts, wanted))
        if same and plain and bool(model.get("ignore_merges")) == whole_words:
            return name
    return None


def _says(part: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(part.get(key) == value for key, value in wanted.items())


def _pair(merge: Any) -> Sequence[str]:
    pieces: list[str] = merge.split(" ") if isinstance(merge, str) else merge
    return pieces
