"""The real agent, with less patience: for tests of what it does after a long time without a controller.

python -m tests.support.impatient_agent agent ...
"""

from __future__ import annotations

from agent import main
from agent.lora import session
from cli.main import app

if __name__ == "__main__":
    main.ALONE_SECONDS = 1.0
    session.RECHECK_SECONDS = 1.0
    app()
