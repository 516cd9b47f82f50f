"""A small text encoder of our own, in CLIP's layout, with a tokenizer made for its prompts."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from factory.errors import ConfigError

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,-."
_WORD = re.compile(r"[^\W\d_]+|\d|[^\s\w]+")
"""Words as CLIP's tokenizer cuts them: letters together, digits one by one, marks together."""
MAX_TOKENS = 48
"""Prompts are cut after this many tokens; the longest description of wbc-base has 35."""


def prompt_tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """Return a `CLIPTokenizer` in whose vocabulary every word of `texts` is one token.

    Unknown words fall apart into letters. Equal words give equal ids in every process, which the
    trainer of the `tokenizers` library does not: it breaks ties differently on every run (seen
    with 0.23), and a resumed training would meet shuffled words.
    """
    words = sorted({word for text in texts for word in _WORD.findall(text.lower())})
    letters = sorted(set(_LETTERS) | {letter for word in words for letter in word})
    merges = _byte_pair_merges(words)
    tokens = [START, END, *letters, *(f"{letter}{WORD_END}" for letter in letters)]
    tokens += dict.fromkeys("".join(pair) for pair in merges)
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        model_max_length=MAX_TOKENS,
    )


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Return token ids (len(prompts), model_max_length), padded or cut to that length."""
    encoded = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: Tensor = encoded.input_ids
    return ids


def _byte_pair_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return merges, in order, that turn every word into one token.

    Byte-pair encoding (R. Sennrich et al., Neural Machine Translation of Rare Words with Subword
    Units, 2016): join the most frequent pair until none is left; ties go to the smaller pair.
    """
    pieces = [[*word[:-1], word[-1] + WORD_END] for word in words]
    merges = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_join(word, best) for word in pieces]
    return merges


def _join(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def small_text_encoder(tokenizer: CLIPTokenizer, *, width: int = 128) -> CLIPTextModel:
    """Return an untrained two-layer CLIP text model: tokens (B, MAX_TOKENS) to (B, ..., width)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def check_text_parts(pipeline: Any) -> None:
    """Raise unless tokenizer, text encoder and U-Net of a pipeline speak of the same things.

    Raises:
        ConfigError: naming the two that do not, with their figures.
    """
    encoder, unet = pipeline.text_encoder.config, pipeline.unet.config
    tokens, longest = len(pipeline.tokenizer), pipeline.tokenizer.model_max_length
    told = None
    if tokens > encoder.vocab_size:
        told = f"tokenizer has {tokens} tokens, its text encoder knows {encoder.vocab_size}"
    elif longest > encoder.max_position_embeddings:
        told = (
            f"tokenizer gives {longest} tokens a prompt, its text encoder takes"
            f" {encoder.max_position_embeddings}"
        )
    elif encoder.hidden_size != unet.cross_attention_dim:
        told = (
            f"text encoder gives vectors of {encoder.hidden_size} values, its U-Net takes"
            f" {unet.cross_attention_dim}"
        )
    if told:
        raise ConfigError(
            f"the base's {told}", remedy="Use tokenizer, text encoder and U-Net of the same base"
        )
