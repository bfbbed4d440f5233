"""How process reward models mark steps: one module a convention, one row each in the table.

A convention splits a completion into steps and encodes question and steps as the model was trained to
read them; the models themselves are in `models.step_networks`. Where a step ends comes from a mask made
while encoding, never from the scores or from looking for a token that a text may also contain.
"""

from models.conventions import lines, math_shepherd, qwen
from models.steps import Convention, Example

CONVENTIONS: dict[str, Convention] = {
    "lines": lines.CONVENTION,
    "qwen": qwen.CONVENTION,
    "math-shepherd": math_shepherd.CONVENTION,
}

__all__ = ["CONVENTIONS", "Convention", "Example"]
