"""What looks like a secret, by its name or its value: it must not travel in a job's environment.

Ray keeps a job's command and `runtime_env` as plain text on the head, and shows both to whoever
reaches the dashboard. So they are searched for secrets before they are sent; nodes get theirs from
the cloud's workload identity or a Kubernetes Secret (docs/cluster.md).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from factory.errors import ClusterError

_NAME = re.compile(
    r"""(?ix) (?:^|[_.\-])
    (?: token | secret | passwd | password | passphrase | pwd | credentials? | cookie
      | (?: api | access | account | private | secret | sas | ssh | signing | master )
        [_-]?key (?:[_-]?id)? )
    (?:[_.\-]|$)"""
)
_VALUES = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google API key": r"\bAIza[\w\-]{35}",
    "a GitHub token": r"\b(?:gh[pousr]_|github_pat_)\w{20,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "a Slack token": r"\bxox[abprs]-[\w\-]{10,}",
    "a signed web token": r"\beyJ[\w\-]{10,}\.eyJ[\w\-]{10,}",
    "a user and password in a URL": r"://[^/\s:@]+:[^/\s@]+@",
    "a signed URL": r"[?&](?:sig|X-Amz-Signature|X-Goog-Signature)=",
}
_SHORTEST = 8
"""Characters of an environment variable's value below which it is too common to search for."""


def is_secret_name(name: str) -> bool:
    """Return whether a variable, option or key of this name holds a secret: `HF_TOKEN`."""
    return _NAME.search(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Searches what is about to leave this machine.

    Args:
        known: secrets of this machine, told apart by name; their values are searched for.
    """

    known: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def over(cls, environ: Mapping[str, str], **others: str | None) -> "Watch":
        """Watch over the secrets of an environment, and over `others`."""
        named = {name: value for name, value in environ.items() if is_secret_name(name)}
        known = named | {name: value for name, value in others.items() if value}
        return cls(known={n: v for n, v in known.items() if len(v) >= _SHORTEST})

    def reason(self, text: str) -> str | None:
        """Return what secret `text` holds, in words that do not repeat it; None if none."""
        for name, value in self.known.items():
            if value in text:
                return f"the value of {name}"
        found = (what for what, pattern in _VALUES.items() if re.search(pattern, text))
        return next(found, None)

    def check_pair(self, name: str, value: str, *, where: str) -> None:
        """Refuse `name=value` if either looks like a secret.

        Raises:
            ClusterError: naming the name, never the value.
        """
        held = "a secret, by its name" if is_secret_name(name) else self.reason(value)
        if held is not None:
            raise ClusterError(
                f"{where} {name!r} holds {held}, and a head keeps what it is sent as plain text",
                remedy="Give it to the nodes instead: by workload identity, or as a variable from"
                " a Kubernetes Secret (docs/cluster.md)",
            )

    def check_words(self, words: Sequence[str], *, where: str) -> None:
        """Refuse a command with a secret in it: `--storage-option AWS_SECRET_ACCESS_KEY=...`.

        Raises:
            ClusterError: naming the option, never the value.
        """
        for word in words:
            name, _, value = word.partition("=")
            bare = name.lstrip("-")
            named = is_secret_name(bare) and (bool(value) or name.startswith("--"))
            if named or self.reason(word):
                shown = bare if named else "(not shown)"
                self.check_pair(shown, word, where=where)
