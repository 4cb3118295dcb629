"""What holds for all tests."""

import os

# Before torch is imported: the networks of tests are quickest on one thread, also in the workers that tests start, and
# runs of one seed repeat to the last bit only on as many threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
