"""What scorers count of the texts that they rate, in sentences."""

from collections.abc import Mapping

from prefpipe.backends.scorers.checks_scorer import NEAR_IFEVAL
from prefpipe.text.checks.ifeval import NEAR
from prefpipe.text.control_text import N_READ, notes_of_control_text


def notes_on_texts(tally: Mapping[str, float]) -> list[str]:
    """Return notes on the texts that a scorer rated.

    They say how many hold the text of a control token, and which of IFEval's instructions were
    judged by a check that is only close to IFEval's.
    """
    notes = notes_of_control_text(tally, tally.get(N_READ, 0))
    for name, n in sorted(tally.items()):
        if name.startswith(NEAR_IFEVAL):
            instruction = name.removeprefix(NEAR_IFEVAL)
            notes.append(
                f"{instruction}: {int(n):,} prompts; close to IFEval's rule, but not the same: "
                f"{NEAR[instruction]}"
            )
    return notes
