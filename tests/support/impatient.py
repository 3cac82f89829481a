"""The real daemons, with less patience: for tests of what they do after a long time.

python -m tests.support.impatient agent ...
python -m tests.support.impatient controller ...
"""

from __future__ import annotations

from agent import enrolment, main
from agent.lora import session
from cli.main import app
from controller import reconcile, resolution

if __name__ == "__main__":
    enrolment.LOOK_SECONDS = 1.0
    main.ALONE_SECONDS = 1.0
    session.RECHECK_SECONDS = 1.0
    for module in (reconcile, resolution):
        vars(module).update(CREDENTIAL_AGE=1.0)
    app()
