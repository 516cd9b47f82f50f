"""How quickly things start: `factory --help`, `import catalog`.

python -m tests.bench.bench_start
"""

from tests.bench.timing import child_seconds, told


def main() -> None:
    """Print medians of 5, after one warm-up each."""
    for name, command in {
        "factory --help": (
            "-c",
            "import sys; sys.argv[1:] = ['--help']\nfrom factory.cli import main; main()",
        ),
        "import catalog": ("-c", "import catalog"),
        "python alone": ("-c", "pass"),
    }.items():
        child_seconds(*command)
        print(told(name, [child_seconds(*command) for _ in range(5)], "s"))


if __name__ == "__main__":
    main()
