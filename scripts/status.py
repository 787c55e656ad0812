"""How each image of the wish list stands: `python scripts/status.py '*debian*'`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow"))

from duccmake.service.images import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
