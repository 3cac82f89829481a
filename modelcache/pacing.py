"""How often to look at everything, where every look costs more the more there is to look at.

Agents and the controller look at the whole state whenever anything in it changes (level-triggered), and a hundred models
change a hundred times while they are fetched. Done at every change, that is work of the order of models times changes. So after
each look there is a pause in proportion to what it took: looking takes a share of the time that does not grow with the number
of models, nor when the processor is busy with something else, and a change that comes alone is seen at once.
"""

SHARE = 0.2
"""Of the time, for each thing that is looked at again and again."""
LONGEST_PAUSE = 2.0
"""Seconds: a look that was held up for long by something else must not silence us for longer still."""


def pause_after(took: float, *, least: float = 0.0) -> float:
    """Seconds until the next look, `took` being what the last one took; at least `least`, even if that is longer than ours."""
    return max(least, min(LONGEST_PAUSE, took * (1 / SHARE - 1)))
