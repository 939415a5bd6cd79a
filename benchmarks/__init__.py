"""Speed claims, measured beside what others offer: `python -m benchmarks` runs every `bench_*.py` beside this file."""

import os

# Before torch starts its threads: threads that spin while they wait stall everything as soon as a core is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
