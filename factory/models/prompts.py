"""Prompts of a class and its attributes: what a generator is told, and what of it is read."""

import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from factory.models.families import STABLE_DIFFUSION
from factory.models.folder import read_json

FIELD = re.compile(r"\{(\w+)\}")
"""A place in a template that an attribute fills."""


class PromptGrammar(BaseModel):
    """How a class name and attributes become one English prompt.

    `subject` and `phrases` are templates with `{attribute}` fields. A field without a value
    disappears; a phrase with no field left disappears whole. So every subset of attributes gives a
    sentence: "a big round eosinophil, segmented-bilobed nucleus, red round granules".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str = "{class_name}"
    phrases: tuple[str, ...] = ()
    words: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)
    """Attribute -> value -> the word written for it; the empty word hides a value."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that the templates use, in order of appearance."""
        fields = FIELD.findall(" ".join((self.subject, *self.phrases)))
        return tuple(name for name in dict.fromkeys(fields) if name != "class_name")

    def compose(
        self,
        class_name: str,
        attributes: Mapping[str, str | None] | None = None,
        *,
        keep: Collection[str] | None = None,
    ) -> str:
        """Return the prompt for a class (underscores read as spaces) and its known attributes.

        Args:
            class_name: e.g. 'immature_granulocyte'.
            attributes: attribute -> value; None means unknown.
            keep: if given, only these attributes are mentioned.
        """
        words = {"class_name": class_name.replace("_", " ")}
        for name, value in (attributes or {}).items():
            if value is not None and (keep is None or name in keep):
                words[name] = self.words.get(name, {}).get(value, value)
        subject = _fill(self.subject, words)
        phrases = [_fill(p, words) for p in self.phrases if any(map(words.get, FIELD.findall(p)))]
        return ", ".join([f"{_article(subject)} {subject}", *phrases])

    def vocabulary(
        self, class_names: Iterable[str], values: Mapping[str, Iterable[str]]
    ) -> Iterator[str]:
        """Yield texts that together hold every word the grammar can write."""
        yield "a an"
        yield from (FIELD.sub(" ", text) for text in (self.subject, *self.phrases))
        yield from (name.replace("_", " ") for name in class_names)
        for name in self.attributes:
            yield from (self.words.get(name, {}).get(value, value) for value in values[name])


def grammar_of(manifest: Mapping[str, Any]) -> PromptGrammar:
    """Return the grammar that a generator was trained with, by its manifest, or the plain one."""
    stored = manifest.get("config", {}).get("prompt", {})
    return PromptGrammar.model_validate(stored if isinstance(stored, dict) else {})


def vary_prompt(
    grammar: PromptGrammar,
    class_name: str,
    attributes: Mapping[str, str | None],
    rng: random.Random,
    *,
    condition_dropout: float,
    attribute_dropout: float,
) -> str:
    """Return a training prompt: empty, class only, or class with a random subset of attributes.

    The empty prompt (probability `condition_dropout`) is what classifier-free guidance needs
    (J. Ho and T. Salimans, Classifier-Free Diffusion Guidance, 2022). A third of the rest names
    the class alone, so that plain class prompts are in the training distribution.
    """
    if rng.random() < condition_dropout:
        return ""
    if rng.random() < 1 / 3:
        return grammar.compose(class_name)
    keep = [name for name in grammar.attributes if rng.random() >= attribute_dropout]
    return grammar.compose(class_name, attributes, keep=keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a tokenizer makes of a prompt."""

    tokens: int
    """Of the whole prompt, begin and end included; no more than `most` are read."""
    most: int
    read: str
    """The words that are read: the prompt itself, or its beginning."""
    cut: str
    """The words that are not, the one that is read in part among them; empty: none."""
    unknown: str
    """Letters that the tokenizer does not know, and reads as nothing."""
    ids: tuple[int, ...]
    """The tokens that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """The tokenizer of a generator, asked what it reads: `tokenize` cuts a prompt in silence."""

    backend: Any
    """A `tokenizers.Tokenizer`."""
    most: int
    unknown_id: int | None

    @staticmethod
    def of(tokenizer: Any) -> "Reader":
        """Return the reader of a `CLIPTokenizer`."""
        return Reader(
            backend=tokenizer.backend_tokenizer,
            most=tokenizer.model_max_length,
            unknown_id=tokenizer.unk_token_id,
        )

    def read(self, prompt: str) -> Reading:
        """Return how a prompt is read."""
        self.backend.no_truncation()
        self.backend.no_padding()
        encoded = self.backend.encode(prompt)
        ids, spans, read = encoded.ids, encoded.offsets, prompt
        if len(ids) > self.most:
            start = spans[self.most - 1][0]  # of the first token without a place: the end has one
            words = prompt[:start]
            between = words[-1:].isspace()
            read = words.rstrip() if between else words.rpartition(" ")[0].rstrip() or words
        inner = zip(ids[1:-1], spans[1:-1], strict=True)
        unknown = dict.fromkeys(prompt[a:b] for token, (a, b) in inner if token == self.unknown_id)
        return Reading(
            tokens=len(ids),
            most=self.most,
            read=read,
            cut=prompt[len(read) :].strip(),
            unknown="".join(unknown),
            ids=tuple(ids if read == prompt else self.backend.encode(read).ids),
        )


def open_reader(
    folder: Path, tokens: Mapping[str, int | None] = STABLE_DIFFUSION.tokens
) -> Reader | None:
    """Return the reader of a generator's folder; None: it has none of these tokenizers.

    Args:
        folder: of its pipeline.
        tokens: `Family.tokens`: tokenizers in the order in which they are looked for, and how many
            tokens of a prompt are read; None: as many as a CLIP tokenizer's own files say.

    Raises:
        ModelError: its files are damaged.
    """
    name = next((name for name in tokens if (folder / name).is_dir()), None)
    if name is None:
        return None
    path, most = folder / name / "tokenizer.json", tokens[name]
    if most is not None:
        from transformers import AutoTokenizer

        known = AutoTokenizer.from_pretrained(path.parent, local_files_only=True)
        return Reader(backend=known.backend_tokenizer, most=most, unknown_id=known.unk_token_id)
    if not path.is_file():  # Stable Diffusion's own files
        from transformers import CLIPTokenizer

        return Reader.of(CLIPTokenizer.from_pretrained(path.parent))
    from tokenizers import Tokenizer

    told, backend = (
        read_json(path.with_name("tokenizer_config.json")),
        Tokenizer.from_file(str(path)),
    )
    return Reader(
        backend=backend,
        most=int(told["model_max_length"]),
        unknown_id=backend.token_to_id(str(told.get("unk_token"))),
    )


def _fill(template: str, words: Mapping[str, str]) -> str:
    return " ".join(FIELD.sub(lambda m: words.get(m[1], ""), template).split())


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"
