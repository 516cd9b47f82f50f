"""Prompts: every subset of attributes gives a true English sentence."""

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from factory.config import load_config
from factory.methods.text.config import BaseConfig
from factory.models.conditioning import MAX_TOKENS, prompt_tokenizer, tokenize
from factory.models.generator import EMBEDDED
from factory.models.prompts import PromptGrammar, Reader, open_reader, vary_prompt

GRAMMAR = load_config(BaseConfig, "wbc_base").prompt
FULL = {
    "cell_size": "big",
    "cell_shape": "round",
    "nucleus_shape": "segmented-bilobed",
    "granule_type": "round",
    "granule_colour": "red",
    "cytoplasm_vacuole": "no",
    "source_prefix": "EO",
}


def test_the_papers_example_reads_as_meant() -> None:
    keep = {"cell_size", "cell_shape", "nucleus_shape", "granule_type", "granule_colour"}
    assert GRAMMAR.compose("eosinophil", FULL, keep=keep) == (
        "a big round eosinophil, segmented-bilobed nucleus, red round granules"
    )


def test_class_names_lose_underscores_and_get_the_right_article() -> None:
    assert GRAMMAR.compose("immature_granulocyte") == "an immature granulocyte"
    assert GRAMMAR.compose("platelet") == "a platelet"


def test_absence_is_said_in_words() -> None:
    attributes = {"granule_type": "nil", "granule_colour": "nil", "cytoplasm_vacuole": "no"}
    assert GRAMMAR.compose("monocyte", attributes) == "a monocyte, no granules, without vacuoles"


def test_a_hidden_value_takes_its_phrase_along() -> None:
    assert GRAMMAR.compose("neutrophil", {"source_prefix": "SNE"}) == "a neutrophil"
    assert "myelocyte stage" in GRAMMAR.compose("immature_granulocyte", {"source_prefix": "MY"})


@given(st.sets(st.sampled_from(sorted(FULL))))
def test_any_subset_has_no_loose_ends(keep: set[str]) -> None:
    text = GRAMMAR.compose("eosinophil", FULL, keep=keep)
    assert "{" not in text
    assert "  " not in text
    assert not text.endswith((",", " "))


def test_training_prompts_drop_the_condition_as_often_as_asked() -> None:
    rng = random.Random(0)
    drawn = [
        vary_prompt(GRAMMAR, "eosinophil", FULL, rng, condition_dropout=0.1, attribute_dropout=0.3)
        for _ in range(4000)
    ]
    assert 0.08 < drawn.count("") / 4000 < 0.12
    assert 0.28 < drawn.count("an eosinophil") / 4000 < 0.34
    assert len(set(drawn)) > 50


def test_every_word_of_the_grammar_is_one_token() -> None:
    grammar = PromptGrammar(subject="{size} {class_name}", phrases=("{hue} cytoplasm",))
    tokenizer = prompt_tokenizer(
        grammar.vocabulary(["basophil"], {"size": ["big"], "hue": ["light blue"]})
    )
    words = tokenizer.tokenize("a big basophil, light blue cytoplasm")
    assert words == [
        f"{w}</w>" for w in ["a", "big", "basophil", ",", "light", "blue", "cytoplasm"]
    ]


def test_unknown_words_fall_into_letters_and_long_prompts_are_cut() -> None:
    tokenizer = prompt_tokenizer(["a cell"])
    assert tokenizer.tokenize("xyz") == ["x", "y", "z</w>"]
    ids = tokenizer(
        "cell " * 100, truncation=True, padding="max_length", max_length=MAX_TOKENS
    ).input_ids
    assert len(ids) == MAX_TOKENS


@pytest.mark.slow
def test_equal_words_get_equal_ids_in_every_process() -> None:
    """Ids are part of the weights' meaning: a resumed training must not shuffle them."""
    texts = ["a big round eosinophil", "a small basophil, red granules"]
    first, second = prompt_tokenizer(texts), prompt_tokenizer(reversed(texts))
    assert first.get_vocab() == second.get_vocab()
    code = (
        "from factory.models.conditioning import prompt_tokenizer as p;"
        f"print(sorted(p({texts!r}).get_vocab().items()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(first.get_vocab().items()))


WBC_BASE = EMBEDDED["wbc-base"]


def test_what_of_a_prompt_is_read_is_known_to_the_word() -> None:
    reader = open_reader(WBC_BASE)
    whole = reader.read("a big round eosinophil, segmented-bilobed nucleus, red round granules")
    assert (whole.cut, whole.unknown) == ("", "")
    long = reader.read("moderately differentiated pulmonary adenocarcinoma, predominantly lepidic")
    assert (long.tokens, long.most) == (52, 48)
    assert long.read == "moderately differentiated pulmonary adenocarcinoma, predominantly"
    assert long.cut == "lepidic"
    assert reader.read(long.read).cut == ""
    assert reader.read("x" * 80).read == "x" * 46  # no word fits: its beginning
    assert reader.read('Übergang 50 % "blast"').unknown == 'Ü%"'


def test_the_reader_agrees_with_what_networks_are_given() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(WBC_BASE / "tokenizer")
    for prompt in ("a monocyte", "pulmonary adenocarcinoma " * 4, "", "Übergang"):
        found = Reader.of(tokenizer).read(prompt)
        given = tokenize(tokenizer, [prompt])
        assert found == open_reader(WBC_BASE).read(prompt)
        assert given.shape == (1, 48)  # asking has not changed the tokenizer
        if not found.cut:
            assert given.tolist() == tokenize(tokenizer, [found.read]).tolist()
