"""``python -m mailsrv``."""

from __future__ import annotations

import sys

from mailsrv.cli import main

sys.exit(main())
