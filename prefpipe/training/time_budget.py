"""A wall-clock budget: stop while there is still time to save.

The forecast uses measured times: at the end of a step it checks whether one more step, the
evaluations that are due and the saving still fit. The first saving has no measurement; it is
estimated from the bytes of weights and optimizer.
"""

import time
from collections.abc import Callable, Collection
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SAVE_BYTES_PER_S = 2e8
"""Assumed speed of writing the first checkpoint **(ours)**: below that of a typical network file
system.
"""

SECONDS_AN_HOUR = 3600.0


class TimeBudget(TrainerCallback):  # type: ignore[misc]
    """Measures steps, evaluations and savings, and knows when another step would not fit.

    It only answers ``is_up()``; the caller stops the training, on all processes alike. It is never
    up before the first step, so that even a very small budget makes one step each time.

    Args:
        hours: the budget.
        started: when it began, on ``clock``.
        clock: seconds.
        keep_steps: steps after which the model is written; each counts like a checkpoint, which is
            larger.
    """

    def __init__(
        self,
        hours: float,
        started: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        keep_steps: Collection[int] = (),
    ) -> None:
        self.deadline = started + hours * SECONDS_AN_HOUR
        self.clock = clock
        self._keep_steps = frozenset(keep_steps)
        self._step = 0
        self.step_s = 0.0
        self.evaluation_s = 0.0
        self.save_s = 0.0
        self._has_stepped = False
        self._has_saved = False
        self._evaluation_is_due = False
        self._lap_began = clock()

    def is_up(self) -> bool:
        """Return whether one more step, with evaluations and saving, would not fit any more."""
        # An evaluation that is due now runs in any case; another may be due after the step.
        n_evaluations = int(self._evaluation_is_due) + 1
        # The same for models to keep: of this step, which is written next, and of the next step.
        n_saves = 1 + len(self._keep_steps & {self._step, self._step + 1})
        needed_s = self.step_s + n_evaluations * self.evaluation_s + n_saves * self.save_s
        return self._has_stepped and self.clock() + needed_s > self.deadline

    def stops_between_parts(self) -> Callable[[], bool]:
        """Return a check to call before each part of work that precedes the training.

        It returns whether another part as long as the longest would not fit.
        """
        asked_at: list[float] = []
        longest_s = 0.0

        def would_not_fit() -> bool:
            nonlocal longest_s
            now = self.clock()
            if asked_at:
                longest_s = max(longest_s, now - asked_at[-1])
            asked_at.append(now)
            return len(asked_at) > 1 and now + longest_s > self.deadline

        return would_not_fit

    def on_train_begin(
        self, args: TrainingArguments, _state: Any, _control: Any, model: nn.Module, **_kwargs: Any
    ) -> None:
        """Estimate how long the first checkpoint takes.

        It holds the weights, and two moments of the trained weights, in float32.
        """
        n_bytes = 0
        for weight in model.parameters():
            n_bytes += weight.numel() * weight.element_size()
            if weight.requires_grad:
                n_bytes += 8 * weight.numel()
        self.save_s = n_bytes / SAVE_BYTES_PER_S

        self._lap_began = self.clock()
        self._evaluation_is_due = bool(args.eval_on_start)

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Start the clock of a step."""
        self._lap_began = self.clock()

    def on_step_end(
        self, _args: Any, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Record the longest step."""
        self._step = state.global_step
        self.step_s = max(self.step_s, self._lap())
        self._has_stepped = True
        self._evaluation_is_due = control.should_evaluate

    def on_log(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Exclude the writing of a log row from the evaluation after it."""
        if not self._evaluation_is_due:
            self._lap()

    def on_evaluate(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Record the longest evaluation."""
        self.evaluation_s = max(self.evaluation_s, self._lap())

    def on_save(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Record the longest saving; the first one replaces the estimate."""
        saved_s = self._lap()
        self.save_s = max(self.save_s, saved_s) if self._has_saved else saved_s
        self._has_saved = True

    def _lap(self) -> float:
        now = self.clock()
        lap_s = now - self._lap_began
        self._lap_began = now
        return lap_s
