"""Make the bank of the copy gate; what `ray job submit` runs, and `factory prepare bank`.

ray job submit --working-dir . -- python jobs/make_copy_bank.py --data DATA --split split.json ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a job runs without installation

from factory.cli import run
from factory.evaluate.prepare_command import bank

if __name__ == "__main__":
    run(bank)
