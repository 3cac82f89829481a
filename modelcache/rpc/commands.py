"""What controller and agents agree on about commands that are given through the controller."""

from __future__ import annotations

AUDIENCE = "modelcache-commands"
"""Of the tokens by which administrators show who they are. It is good for nothing else, not even at the API server."""
USUAL_SECONDS = 60
LONGEST_SECONDS = 86_400
"""What a command may take: reading a cache of 100 TB with 2 GB/s takes 14 hours."""
ANSWER_BYTES = 4 * 1024 * 1024
"""Of one node: some 20,000 revisions."""
