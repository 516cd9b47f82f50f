"""What looks like a secret is found by name or value, told without its value, and refused."""

import pytest

from factory.errors import ClusterError
from factory.submit.secret import Watch, is_secret_name

CANARY = "canary-4f1d9c77a0"


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "aws_session_token"),
        *("db.password", "account_key", "GOOGLE_APPLICATION_CREDENTIALS", "api-key", "secret"),
    ],
)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["num_images", "tokenizer", "AWS_REGION", "seed", "monkey", "keyword", "stream.actors"]
)
def test_other_names_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "value",
    [
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "hf_" + "a1B2" * 8,
        "ghp_" + "x" * 36,
        "https://user:" + "pass@host/x",
        "https://x.blob/y?se=1&sig=" + "abc",
        f"prefix {CANARY} suffix",
    ],
)
def test_a_secret_is_known_by_its_value_and_not_repeated(value: str) -> None:
    watch = Watch.over({"MY_TOKEN": CANARY, "HOME": "/somewhere"})
    with pytest.raises(ClusterError) as refused:
        watch.check_pair("HARMLESS", value, where="the variable")
    assert value not in str(refused.value)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ["x.py", "--storage-option", f"AWS_SECRET_ACCESS_KEY={CANARY}"],
        ["x.py", "--password", CANARY],
        ["x.py", f"--note={CANARY}"],
    ],
)
def test_a_command_with_a_secret_is_refused_without_repeating_it(words: list[str]) -> None:
    with pytest.raises(ClusterError, match="workload identity") as refused:
        Watch.over({"MY_TOKEN": CANARY}).check_words(words, where="the job's option")
    assert CANARY not in str(refused.value)


def test_a_usual_command_passes() -> None:
    words = "jobs/generate_wbc.py --catalog s3://lab/wbc --set seed=3 --storage-option AWS_REGION=x"
    Watch.over({"TOKEN": "short"}).check_words(words.split(), where="the job's option")


def test_a_watch_shows_no_secret_of_its_own() -> None:
    assert CANARY not in repr(Watch.over({"MY_TOKEN": CANARY}))
