"""Group real pairs by what they look like; what `ray job submit` runs, and `factory prepare`.

ray job submit --working-dir . -- python jobs/cluster_pairs.py --data DATA --split split.json ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.evaluate.prepare_command import clusters

if __name__ == "__main__":
    run(clusters)
