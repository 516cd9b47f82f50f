"""Adapt a generator to real images; what `ray job submit` runs.

python jobs/finetune.py --config cytodiff --data cells --split split.json --output runs/mine
ray job submit --working-dir . -- python jobs/finetune.py --set cluster.workers=4 ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.finetune.commands import finetune

if __name__ == "__main__":
    run(finetune)
