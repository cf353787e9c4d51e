"""The tests. Imported before any of them, and so before the libraries that read these settings."""

import os

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, (os.cpu_count() or 1) // WORKERS) if WORKERS > 1 else 2
if WORKERS > 1:  # processes that share the cores, and what they start; threads that wait for a core spin
    os.environ |= {"OMP_NUM_THREADS": str(THREADS), "NUMBA_NUM_THREADS": str(THREADS)}
