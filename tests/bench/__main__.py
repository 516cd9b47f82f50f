"""All benches, one after another: `make bench`. Takes about half an hour on 2 cores."""

import subprocess
import sys

BENCHES = ("bench_start", "bench_stream", "bench_seed_loop", "bench_restart", "bench_catalog")

for name in BENCHES:
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)
