"""The settings of an objective: start value, meaning, and which values are allowed."""

from dataclasses import dataclass
from math import isfinite

KnobValue = float | bool | str


@dataclass(frozen=True)
class Knob:
    """One setting of an objective: its start value, effect and allowed values."""

    name: str
    default: KnobValue
    help: str
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def shown_default(self) -> str:
        """The default as written in YAML."""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    @property
    def range(self) -> str:
        """The allowed values in words: ``at least 0 and below 0.5``."""
        if isinstance(self.default, bool):
            return "true or false"
        if self.choices:
            return " or ".join(self.choices)

        bounds = (("above", self.above), ("at least", self.at_least), ("below", self.below))
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)

    def problem(self, value: object) -> str | None:
        """Return what is wrong with a value; None if nothing."""
        if isinstance(self.default, bool):
            if isinstance(value, bool):
                return None
            return f"{self.name} is {value!r}, not true or false"

        if self.choices:
            if value in self.choices:
                return None
            return f"{self.name} is {value!r}, not one of {', '.join(self.choices)}"

        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            return f"{self.name} is {value!r}, not a finite number"
        if self.above is not None and value <= self.above:
            return f"{self.name} is {value}, not above {self.above:g}"
        if self.at_least is not None and value < self.at_least:
            return f"{self.name} is {value}, below {self.at_least:g}"
        if self.below is not None and value >= self.below:
            return f"{self.name} is {value}, not below {self.below:g}"
        return None


def beta_knob(default: float) -> Knob:
    """Return the scale of the scores, with an objective's own start value."""
    return Knob("beta", default, "scale of the scores: larger means sharper comparisons", above=0.0)


DEVIATION_WEIGHT = Knob(
    "alpha", 0.0, "weight of a response's deviation from the mean reward", at_least=0.0
)
DEVIATION = Knob(
    "deviation",
    "signed",
    "very bad negatives weigh less (signed) or more (absolute)",
    choices=("signed", "absolute"),
)
NEGATIVES_WEIGHT = Knob(
    "gamma", 3.0, "weight of the negatives; log(gamma) is the required margin", above=0.0
)
EVIDENCE = Knob(
    "gamma",
    1.1,
    "nats of margin per unit of reward (with 1.1 = log 3 one point wins 75 %)",
    at_least=0.0,
)
LENGTH_NORMALISE = Knob(
    "length_normalise", default=True, help="mean log-probability per token instead of the sum"
)
TARGET_TEMPERATURE = Knob("alpha", 1.0, "temperature of the target softmax(r / alpha)", above=0.0)
FLIPPED = Knob("eps", 0.1, "share of preferences that are reversed", at_least=0.0, below=0.5)
