"""Read by every Python that has this directory on its path: the time is some days later.

Only the time of day is: clocks that measure, and the times of files, go on as they are.
"""

import os
import time

_real, _seconds = time.time, float(os.environ["TESTS_DAYS_LATER"]) * 86400.0
time.time = lambda: _real() + _seconds
