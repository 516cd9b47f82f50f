"""What the scripts of studies share: commands of the factory, as somebody would type them."""

import subprocess
import sys


def factory(*words: str) -> None:
    """Run a command of the factory; where it fails it says itself why, and nothing goes on."""
    done = subprocess.run([sys.executable, "-m", "factory.cli", *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def sets(*keys: str) -> list[str]:
    """Return keys as options of a command."""
    return [word for key in keys for word in ("--set", key)]
