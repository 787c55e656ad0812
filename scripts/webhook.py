"""Hear registries' notifications and wake the watcher: `python scripts/webhook.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow"))

from duccmake.service.webhook.serve import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
