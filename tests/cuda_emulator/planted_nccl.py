#!/usr/bin/env python3
"""planted_nccl.py PROGRAM: what ranks may not do with NCCL is found by its twin, and named.

PROGRAM is device_comm; each case is one of its --planted."""

import os
import subprocess
import sys

MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--mca",
          "odls_base_sigkill_timeout", "0", "-n", "3"]
CASES = {
    "order": "all_reduce of 1000 numbers of type 7 here, broadcast of 4000 numbers of type 1 from 0 on member 2",
    "count": "all_reduce of 1001 numbers of type 7",
    "root": "broadcast of 4000 numbers of type 1 from 1",
    "message": "member 0 sends 3108 bytes, and 3104 are received of it",
    "batch": "a batch that has not ended",
    "absent": "member 2 has left the group",
}
# Differences are seen by whoever compares first, and then the other way round.
TURNED = {"order": "broadcast of 4000 numbers of type 1 from 0 here, all_reduce of 1000 numbers of type 7 on member"}

failed = 0
for what, text in CASES.items():
    result = subprocess.run(["timeout", "100"] + MPIRUN + [sys.argv[1], "--planted", what], env=os.environ,
                            capture_output=True, check=False)
    output = (result.stdout + result.stderr).decode(errors="replace")
    found = text in output or TURNED.get(what, text) in output
    if result.returncode != 3 or not found or output.count("NCCL twin:") != 1:
        failed += 1
        print(f"FAILED {what}: status {result.returncode}, expected 3 and '{text}' once\n{output}")
print(f"{len(CASES) - failed} of {len(CASES)} planted mistakes found")
sys.exit(failed != 0)
