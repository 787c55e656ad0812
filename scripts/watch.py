"""Run the workflow whenever something may have changed: `python scripts/watch.py --cores 4`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow"))

from duccmake.service.watch.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
