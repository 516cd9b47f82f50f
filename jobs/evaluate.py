"""Compare training sets with and without synthetic images; what `ray job submit` runs.

python jobs/evaluate.py --data cells --split split.json --catalog wbc-catalog --output study
ray job submit --working-dir . -- python jobs/evaluate.py --config study.yaml ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.evaluate.commands import evaluate

if __name__ == "__main__":
    run(evaluate)
