"""What all benchmarks have around them."""

import os

# Where it is set, each job compiles our modules anew: no operator's machine does that.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
