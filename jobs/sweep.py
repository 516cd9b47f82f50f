"""Search for how much to draw, and how; what `ray job submit` runs.

python jobs/sweep.py --data cells --split split.json --catalog wbc-catalog --output sweep
ray job submit --working-dir . -- python jobs/sweep.py --config wbc_sweep ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.search.commands import sweep

if __name__ == "__main__":
    run(sweep)
