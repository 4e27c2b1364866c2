"""Reward expressions: one number per candidate out of several scorers' columns.

Grammar: numbers, scorer names, ``+ - * /``, unary minus, parentheses, and `FUNCTIONS`::

    z(checks) + 0.5 * reward_model
    min(logit(judge), 3) - 0.01 * length
    bin((alice + bob) / 2, 5, 1, 10)

A missing value (NaN) makes the result missing for that candidate only.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prefpipe.errors import InputError, UsageError

MAX_DEPTH = 100
"""Limit of nested operators; ``a + b + c`` nests one per term."""


class Function(NamedTuple):
    """A function that an expression may call.

    ``apply`` takes arrays (R,). ``n_arguments`` is the minimum number and, unless variadic, the
    maximum. If ``problem`` is set, all arguments but the first are plain numbers, and it returns
    what is wrong with them or None.
    """

    apply: Callable[..., np.ndarray]
    n_arguments: int
    is_variadic: bool = False
    problem: Callable[..., str | None] | None = None


class Wording(NamedTuple):
    """The words of messages for an expression and for its names."""

    result: str = "reward"
    name: str = "scorer"


OF_REWARDS = Wording()


class _Source(NamedTuple):
    """The parsed text, for messages."""

    text: str
    wording: Wording


class RewardExpression(NamedTuple):
    """A parsed expression: the user's text, and the names of the scorers it reads, sorted."""

    text: str
    names: tuple[str, ...]
    tree: ast.expr

    def evaluate(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the rewards of one prompt's candidates (R,), or of P prompts (P, R).

        NaN in a column gives NaN for that candidate, and pads prompts with fewer than R. Division
        by zero gives an infinity or NaN.

        Args:
            columns: one per scorer, of shape (R,) or (P, R).

        Raises:
            UsageError: a scorer missing from ``columns``; ``logit`` of a number outside (0, 1).
            InputError: columns of different shapes.
        """
        missing = [name for name in self.names if name not in columns]
        if missing:
            known = ", ".join(sorted(columns)) or "none"
            raise UsageError(
                f"the reward {self.text!r} names a scorer without scores: {missing[0]}",
                hint=f"scorers: {known}",
            )

        values = {name: np.array(columns[name], dtype=np.float64) for name in self.names}
        shapes = {column.shape for column in values.values()}
        shape = next(iter(shapes))
        if len(shapes) > 1 or len(shape) not in (1, 2):
            listed = ", ".join(f"{name} {column.shape}" for name, column in values.items())
            raise InputError(f"the scorer columns of one prompt must have one shape: {listed}")

        with np.errstate(all="ignore"):
            return _evaluate(self.tree, values, shape)


def parse_reward(text: str, wording: Wording = OF_REWARDS) -> RewardExpression:
    """Parse a reward expression, or another one of the same grammar.

    Args:
        text: the user's text.
        wording: for messages.

    Raises:
        UsageError: a token outside the grammar; the message names it and its column (from 1).
    """
    source = _Source(text, wording)
    stripped = text.strip()
    try:
        tree = ast.parse(stripped, mode="eval").body
    except SyntaxError as error:
        raise _refuse(
            source, f"cannot be read at column {error.offset or 1}: {error.msg}"
        ) from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise _refuse(source, f"cannot be read: {error}") from error

    names: set[str] = set()
    _check(tree, source, names, depth=1)
    if not names:
        raise _refuse(source, f"names no {wording.name}")
    return RewardExpression(stripped, tuple(sorted(names)), tree)


def standardise(values_R: np.ndarray) -> np.ndarray:
    """Return z-scores within each pool, the last axis: ``(x - mean) / std`` with ddof 0.

    Mean and spread are over the finite values. A spread within rounding (1e-12 of the largest
    value) counts as zero and gives zeros. Values that are not finite become NaN.
    """
    is_finite = np.isfinite(values_R)
    finite = np.where(is_finite, values_R, 0.0)
    n_finite = np.maximum(is_finite.sum(axis=-1, keepdims=True), 1)

    # In units of the largest, so that squares of huge values stay numbers.
    largest = np.abs(finite).max(axis=-1, keepdims=True, initial=0.0)
    scaled = finite / np.where(largest > 0.0, largest, 1.0)
    mean = scaled.sum(axis=-1, keepdims=True) / n_finite
    centred = np.where(is_finite, scaled - mean, 0.0)
    spread = np.sqrt(np.square(centred).sum(axis=-1, keepdims=True) / n_finite)

    is_flat = spread <= 1e-12
    scores = np.where(is_flat, 0.0, centred / np.where(is_flat, 1.0, spread))
    return np.where(is_finite, scores, np.nan)


def logit(values_R: np.ndarray) -> np.ndarray:
    """Return ``log(x / (1 - x))`` for x in (0, 1); NaN stays NaN.

    Raises:
        UsageError: any other number, for which SciPy's ``logit`` would return infinity or NaN.
    """
    is_bad = (values_R <= 0.0) | (values_R >= 1.0)
    if is_bad.any():
        raise UsageError(
            f"logit of {values_R[is_bad][0]:g}: logit needs a value strictly between 0 and 1",
            hint="clip first, for example logit(clip(x, 0.001, 0.999))",
        )
    return np.asarray(np.log(values_R) - np.log1p(-values_R))


def clip(values_R: np.ndarray, low_R: np.ndarray, high_R: np.ndarray) -> np.ndarray:
    """Return ``min(max(x, low), high)``."""
    return np.asarray(np.minimum(np.maximum(values_R, low_R), high_R))


SAME_STEP = 1e-9
"""Tolerance, as a share of a step between levels, for rounding of sums and means."""


def bin_values(
    values_R: np.ndarray, levels_R: np.ndarray, low_R: np.ndarray, high_R: np.ndarray
) -> np.ndarray:
    r"""Return the nearest of L evenly spaced levels from ``low`` to ``high``, ends included.

    ::

        d = (high - low) / (L - 1)
        bin(x, L, low, high) = low + d * floor((x - low) / d + 1/2)

    It imitates a rater with only L marks on the same scale: values keep their units, halfway goes
    to the higher level, and a scale of L marks is unchanged. NaN stays NaN. The rule is ours;
    quantiles of the data would give two runs different levels.

    Raises:
        UsageError: a value outside the scale: the ends are wrong, and a level would hide that.
    """
    steps = (values_R - low_R) / (high_R - low_R) * (levels_R - 1.0)
    is_outside = (steps < -SAME_STEP) | (steps > levels_R - 1.0 + SAME_STEP)
    if is_outside.any():
        raise UsageError(
            f"bin of {values_R[is_outside][0]:g}: the scale runs from {low_R.flat[0]:g} to "
            f"{high_R.flat[0]:g}",
            hint="give the ends of the scale, or clip first, for example "
            "bin(clip(x, 1, 10), 5, 1, 10)",
        )
    levels = np.floor(steps + 0.5 + SAME_STEP)
    return np.asarray(low_R + (high_R - low_R) * (levels / (levels_R - 1.0)))


def _bin_problem(levels: float, low: float, high: float) -> str | None:
    if levels != int(levels) or levels < 2:
        return f"{levels:g} levels, not a whole number of at least 2"
    if not low < high:
        return f"a scale from {low:g} to {high:g}, whose lower end comes first,"
    return None


def _lowest(*columns: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum.reduce(columns))


def _highest(*columns: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum.reduce(columns))


FUNCTIONS: dict[str, Function] = {
    "z": Function(standardise, 1),
    "logit": Function(logit, 1),
    "min": Function(_lowest, 2, is_variadic=True),
    "max": Function(_highest, 2, is_variadic=True),
    "clip": Function(clip, 3),
    "bin": Function(bin_values, 4, problem=_bin_problem),
}
"""The functions of an expression: ``z(x)``, ``logit(x)``, ``min(x, y, ...)``, ``max(x, y, ...)``,
``clip(x, low, high)`` and ``bin(x, levels, low, high)``."""

_OPERATORS: dict[type[ast.operator], Callable[..., np.ndarray]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}


def _evaluate(
    node: ast.expr, values: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    """Evaluate a tree that `_check` has passed; every part is an array of the columns' shape."""
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.UnaryOp):
        operand = _evaluate(node.operand, values, shape)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp):
        left = _evaluate(node.left, values, shape)
        return _OPERATORS[type(node.op)](left, _evaluate(node.right, values, shape))
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        arguments = [_evaluate(argument, values, shape) for argument in node.args]
        return FUNCTIONS[node.func.id].apply(*arguments)
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, int | float)
    return np.full(shape, float(node.value))


def _check(node: ast.expr, source: _Source, names: set[str], *, depth: int) -> None:
    """Refuse anything outside the grammar, and collect the scorer names."""
    if depth > MAX_DEPTH:
        raise _refuse(source, f"is nested deeper than {MAX_DEPTH} operators")
    parts: list[ast.expr] = []
    if isinstance(node, ast.Name):
        if node.id in FUNCTIONS:
            raise _refuse(source, f"uses the function {node.id} as a {source.wording.name}", node)
        names.add(node.id)
    elif isinstance(node, ast.Constant):
        _check_number(node, source)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        parts = [node.operand]
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        parts = [node.left, node.right]
    elif isinstance(node, ast.Call):
        _check_call(node, source)
        parts = node.args
    else:
        raise _refuse(source, f"has {ast.unparse(node)!r}, which is not part of the grammar,", node)
    for part in parts:
        _check(part, source, names, depth=depth + 1)
    # After its arguments: their numbers are known to fit a float.
    if isinstance(node, ast.Call):
        _check_settings(node, source)


def _check_number(node: ast.Constant, source: _Source) -> None:
    # A bool is an int to Python.
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise _refuse(source, f"has {node.value!r}, which is not a number,", node)

    # 1e999 reads as infinity, and a long integer may not fit a float.
    try:
        is_finite = bool(np.isfinite(float(node.value)))
    except OverflowError:
        is_finite = False
    if not is_finite:
        raise _refuse(source, "has a number that is too large", node)


def _check_call(node: ast.Call, source: _Source) -> None:
    if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
        raise _refuse(source, f"calls {ast.unparse(node.func)!r}, which is not a function,", node)

    name, n_given = node.func.id, len(node.args)
    function = FUNCTIONS[name]
    if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
        raise _refuse(source, f"gives {name} named or starred arguments", node)

    is_too_many = n_given > function.n_arguments and not function.is_variadic
    if n_given < function.n_arguments or is_too_many:
        wanted = f"{function.n_arguments} or more" if function.is_variadic else function.n_arguments
        raise _refuse(source, f"gives {name} {n_given} arguments, not {wanted},", node)


def _check_settings(node: ast.Call, source: _Source) -> None:
    """Refuse settings of a function that are not plain numbers, or out of range."""
    assert isinstance(node.func, ast.Name)
    name = node.func.id
    find_problem = FUNCTIONS[name].problem
    if find_problem is None:
        return
    numbers = _plain_numbers(node.args[1:])
    if numbers is None:
        raise _refuse(source, f"gives {name} more than one argument that is not a number,", node)
    problem = find_problem(*numbers)
    if problem is not None:
        raise _refuse(source, f"gives {name} {problem}", node)


def _plain_numbers(nodes: Sequence[ast.expr]) -> list[float] | None:
    """Return these parts as numbers, signs included; None if one is not a number."""
    numbers = []
    for node in nodes:
        sign = 1.0
        while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign = -sign if isinstance(node.op, ast.USub) else sign
            node = node.operand  # noqa: PLW2901 - the number behind its signs
        if not isinstance(node, ast.Constant) or not isinstance(node.value, int | float):
            return None
        numbers.append(sign * float(node.value))
    return numbers


def _refuse(source: _Source, problem: str, node: ast.expr | None = None) -> UsageError:
    text, wording = source
    place = ""
    if node is not None:
        # ast counts columns in UTF-8 bytes of the stripped text; expressions that parse are nearly
        # always ASCII.
        leading = len(text) - len(text.lstrip())
        place = f" at column {leading + node.col_offset + 1}"

    shown = text if len(text) <= 80 else f"{text[:77]}..."
    return UsageError(
        f"the {wording.result} expression {shown!r} {problem}{place}",
        hint=f"numbers, {wording.name} names, + - * /, parentheses and {', '.join(FUNCTIONS)}; "
        "a name is letters, digits and _",
    )
