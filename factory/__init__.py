"""A Ray-distributed synthetic data factory for medical images.

The packages stand in the order in which data flows:
`real -> finetune -> sample -> gate -> catalog -> evaluate -> search`.
Importing `factory` loads neither torch nor ray; heavy imports live in the modules that use them.
"""

import os

if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    # Threads of PyTorch on a CPU wait for each other by spinning. Where another program holds a
    # core they spin for the one that has none: a training on both of two cores took 45 times as
    # long as on a quiet machine; it takes 3 times with fewer turns, and no longer without company
    # (tests/bench/bench_busy.py). It is read when torch is loaded, which is later; no bit changes.
    os.environ["GOMP_SPINCOUNT"] = "3000"

__version__ = "0.1.0"
