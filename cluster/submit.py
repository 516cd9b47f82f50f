"""Submit a job of this project to a cluster: `factory submit`, without installation.

python cluster/submit.py --address http://127.0.0.1:8265 -- jobs/generate_wbc.py --catalog s3://...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from factory.cli import run
from factory.submit.commands import submit

if __name__ == "__main__":
    run(submit)
