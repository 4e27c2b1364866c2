"""Signals, from the first line of the process to its last.

SIGTERM, SIGUSR1 and SIGHUP ask a command to stop: what is worth finishing (a part, a training step
and its checkpoint) is finished, and the command exits with 75, which says "run me again". Where
nothing is being finished (imports, a model being loaded, a report) it stops there and then. SIGINT
stops there and then in any case and exits with 130.

=============  ==================================================================================
SIGUSR1        finishes what is begun, however long that takes: Slurm sends it before the limit
SIGTERM, HUP   the same, for `--grace-seconds` at most, and not at all where they are 0: Slurm,
               Kubernetes and systemd kill 30 s after SIGTERM
SIGINT         finishes nothing
a second one   finishes nothing; under a launcher it is the same request, as processes wait for
               each other
=============  ==================================================================================

This module is imported before everything else and imports next to nothing, so that a signal in the
first moments finds a handler. Handlers run between two instructions of the main thread, which may
be in a library for ever; so a second thread reads every signal as it arrives, and ends the process
where the main thread does not.
"""

import _thread
import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType

STOPPED, INTERRUPTED = 75, 130

AGAIN_S = 10.0
"""SIGUSR1 or SIGHUP so soon after another signal is the same request.

Slurm sends SIGUSR1 twice to a job with pending tasks, a shell passes on the SIGHUP that the
terminal sent already, and systemd lets SIGHUP follow SIGTERM.
"""

GRACE_S = 20.0
"""What is being finished may take so long after SIGTERM or SIGHUP, where no command says it."""

LEAST_GRACE_S = 0.5
"""Before a second signal is sent the main thread has had so long to handle the first one."""

UNWIND_S = 6.0
"""Closing engines and removing temporary files may take so long.

With `GRACE_S`, less than Slurm's 30 s.
"""

KEPT = "finished parts are kept"
CLEAR_LINE_ABOVE, NEW_LINE = "\x1b[1A\x1b[2K", "\n"
IMPORTING = "<frozen importlib._bootstrap>"
COMPILERS = (f"{os.sep}numba{os.sep}", f"{os.sep}llvmlite{os.sep}")
"""Packages whose compiler calls back into Python: an exception there may crash the process."""


class StopNow(KeyboardInterrupt):
    """Ends the command from wherever it is.

    No ``Exception``, so that no library takes it for a failure of its own.
    """


class Section:
    """A stretch of the command in which a request to stop waits, or does not.

    Sections nest: behind the end of one, the one around it holds again.
    """

    def __init__(
        self, request: "StopRequest", *, is_finishing: bool, however_long: bool = False
    ) -> None:
        self.request = request
        self.is_finishing = is_finishing
        self.however_long = however_long
        self.around: Section | None = None

    def __enter__(self) -> None:
        self.around, self.request.section = self.request.section, self
        if not self.is_finishing:
            self.request.stop_if_asked()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.request.section = self.around


class StopRequest:
    """Whether a stop was asked for, and what becomes of the process then.

    ``number`` is the first signal and ``asked_at`` when it came, in seconds since the epoch.
    ``has_raised``: `StopNow` was raised, which happens once a process. ``section``: where the
    command is. ``grace_s``: what is being finished may take so long after SIGTERM or SIGHUP; set
    when the command's config is known, before which nothing is being finished. ``live_height``:
    lines that a live view takes at the bottom of the terminal.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.asked_at: float | None = None
        self.has_raised = False
        self.section: Section | None = None
        self.grace_s = GRACE_S
        self.live_height: Callable[[], int] = lambda: 0
        self._first_at = 0.0
        self._is_hurried = False
        self._reason, self._overdue = "", ""
        self._exit_code = 1
        self._is_installed = False
        self._is_over = False
        self._is_lost = False
        self._main_thread = _thread.get_ident()

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.number is not None

    def when_asked(self) -> float | None:
        """Return when the first signal came, in seconds since the epoch."""
        return self.asked_at

    def is_hurried(self) -> bool:
        """Return whether a second signal came, or the grace is over: nothing is waited for."""
        return self._is_hurried

    def finishing(self, *, however_long: bool = False) -> Section:
        """Return a section in which a first SIGTERM, SIGUSR1 or SIGHUP waits.

        Args:
            however_long: SIGTERM waits for longer than ``grace_s``, too: where a checkpoint is cut
                off, more is lost than a part.
        """
        return Section(self, is_finishing=True, however_long=however_long)

    def interruptible(self) -> Section:
        """Return a section within one that finishes, with nothing to finish: a model is loaded."""
        return Section(self, is_finishing=False)

    def stop_if_asked(self) -> None:
        """Stop there and then when a stop was asked for before."""
        if self.number is not None and not self.has_raised and not _is_launched():
            self._stop_now(self.number, None, _nothing_to_finish(self.number))

    def install(self) -> None:
        """Handle the signals from now to the end of the process; once is enough."""
        if self._is_installed:
            return
        self._is_installed = True
        self._main_thread = _thread.get_ident()

        # Handlers first: all else can wait. `nohup` and a script's background have some ignored.
        for number in _caught():
            is_ignored = signal.getsignal(number) is signal.SIG_IGN
            if not (is_ignored and number in (signal.SIGINT, signal.SIGHUP)):
                signal.signal(number, self._on_signal)
        sys.unraisablehook = self._on_unraisable

        # The interpreter writes every signal into this pipe as it arrives, whatever the main thread
        # does. It must not wait there, so it takes no pipe that blocks.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        _thread.start_new_thread(self._watch, (reader,))
        os.register_at_fork(after_in_child=_be_a_child)

        # Registered before any other, it is called after all others: the interpreter still has
        # these handlers then.
        atexit.register(self._end)

    def run(self, command: Callable[[], int]) -> None:
        """Run a command with signals handled and end the process with its exit code.

        Args:
            command: imports what it needs and returns an exit code.

        Raises:
            BaseException: what ``command`` raised, where no stop was asked for: a bug.
        """
        code: int | None = None
        try:
            try:
                self.install()
                code = command()
            finally:
                self._is_over = True  # what comes now changes nothing: the exit code is known
        except SystemExit as end:
            # As Python itself ends: nothing is 0, a text is 1.
            if end.code is None:
                code = 0
            elif isinstance(end.code, int):
                code = end.code
            else:
                code = 1
        except BaseException:
            if not self.has_raised:  # else it is what some library made of it
                raise
        if self.has_raised and code != 0:  # with 0, the command was done when the signal came
            code = self._say_why()
        self._exit_code = 1 if code is None else code
        if self.has_raised:
            # `sys.exit` would wait for threads whose parts nobody waits for any more.
            atexit._run_exitfuncs()  # noqa: SLF001 - the one way to run these without threads
        sys.exit(self._exit_code)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_over:
            return
        # Sent by `_on_unraisable`: a `StopNow` that was lost is raised anew, with its reason.
        if self._is_lost:
            self._is_lost = False
            self._stop_now(number, frame, self._reason)

        now = time.monotonic()
        is_first = self.number is None
        if not is_first and _is_same_request(number, now - self._first_at):
            return
        if is_first:
            self.number, self.asked_at, self._first_at = number, time.time(), now

        # Before anything is printed, which the closed terminal would make an error.
        if number == signal.SIGHUP:
            _let_go_of_the_terminal()
        if number == signal.SIGINT:
            self._stop_now(number, frame, "")
        # All processes stop together, after a step: each looks at `number` there.
        if _is_launched():
            return
        if not is_first:
            self._is_hurried = True
            reason = self._overdue or "stopped at once by a second signal"
            self._stop_now(number, frame, reason)
        section = self.section
        if section is None or not section.is_finishing:
            self._stop_now(number, frame, _nothing_to_finish(number))
            return

        name, limit = signal.Signals(number).name, ""
        if number != signal.SIGUSR1 and not section.however_long:
            limit = f" within {self.grace_s:g} s"
            if self.grace_s == 0:
                self._is_hurried = True
                reason = f"stopped by {name}: with --grace-seconds 0 nothing is finished"
                self._stop_now(number, frame, reason)
        what = f"finishing what is begun{limit}, then stopping"
        self._say_above(f"{name}: {what}; a second signal stops at once\n")

    def _stop_now(self, number: int, frame: FrameType | None, reason: str) -> None:
        """Raise `StopNow`, once a process, never inside an import or a compiler; else end it here.

        Extension modules make tracebacks of an exception that meets them while they are imported.
        """
        self._reason = reason
        self._exit_code = INTERRUPTED if number == signal.SIGINT else STOPPED
        # A second request does not wait for what the first one unwinds.
        if self.has_raised or _is_no_place_to_raise(frame):
            self.has_raised = True
            self._say_why()
            _leave(self._exit_code)
        self.has_raised = True
        # In case the exception is swallowed, or a `finally` block waits for what never comes.
        _thread.start_new_thread(self._end_after, (UNWIND_S, self._exit_code))
        raise StopNow

    def _on_unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Raise `StopNow` again where it met a finalizer or a callback of C, where it was lost."""
        if not isinstance(unraisable.exc_value, StopNow):
            sys.__unraisablehook__(unraisable)
            return
        # A moment later, by a signal of our own: raised here, it would be swallowed again.
        self.has_raised, self._is_lost = False, True
        _thread.start_new_thread(self._signal_after, (0.05, self.number or signal.SIGTERM))

    def _say_why(self) -> int:
        """Print why the command ends, and return its exit code."""
        if self._exit_code == INTERRUPTED:
            self._say_above(f"interrupted: {KEPT}; run the same command again to go on\n")
            return INTERRUPTED
        without = ", without --overwrite," if "--overwrite" in sys.argv else ""
        hint = f"hint: run the same command again{without} to go on"
        self._say_above(f"{self._reason}; {KEPT}\n\n{hint}\n")
        return STOPPED

    def _say_above(self, text: str) -> None:
        """Print in place of the live view, if there is one, and leave room for it below.

        The view draws over the lines above the cursor; it would draw over the text.
        """
        n_lines = self.live_height()
        if n_lines:
            text = f"\r\x1b[2K{(n_lines - 1) * CLEAR_LINE_ABOVE}{text}{(n_lines - 1) * NEW_LINE}"
        _say(text)

    def _watch(self, reader: int) -> None:
        """Read each signal as it arrives, and end the process where the main thread does not."""
        first_at: float | None = None
        while True:
            for number in os.read(reader, 64):
                # Signals that a library handles come through the same pipe.
                if number not in _caught():
                    continue

                now = time.monotonic()
                is_first = first_at is None
                if first_at is None:
                    first_at = now
                elif _is_same_request(number, now - first_at):
                    continue

                # The timers of the table above, each in a thread: the next signal must be read.
                if self._is_over:
                    _thread.start_new_thread(self._end_after, (UNWIND_S, None))
                elif number == signal.SIGINT:
                    _thread.start_new_thread(self._end_after, (UNWIND_S, INTERRUPTED))
                elif _is_launched():
                    continue
                elif not is_first:
                    _thread.start_new_thread(self._end_after, (UNWIND_S, STOPPED))
                elif number != signal.SIGUSR1:
                    # The handler stops by itself where the grace is 0: this is for a main thread
                    # that gets to no handler.
                    _thread.start_new_thread(self._hurry_after, (max(self.grace_s, LEAST_GRACE_S),))

    def _hurry_after(self, seconds: float) -> None:
        """Send a second signal, unless what is being finished has no limit."""
        time.sleep(seconds)
        while self.section is not None and self.section.however_long:
            time.sleep(1)
        # The command stopped at the first one. A second one would cut off what it unwinds, and it
        # ends after `UNWIND_S` in any case.
        if self.has_raised:
            return
        self._overdue = f"stopped: what was begun took longer than {seconds:g} s from the signal"
        self._signal_after(0, signal.SIGTERM)

    def _signal_after(self, seconds: float, number: int) -> None:
        """Send a signal to the main thread, which may be waiting in the system for one."""
        time.sleep(seconds)
        signal.pthread_kill(self._main_thread, number)

    def _end_after(self, seconds: float, code: int | None) -> None:
        """End the process, with the exit code that is known where ``code`` is None."""
        time.sleep(seconds)
        # The command ended meanwhile, and only the interpreter's end is held up.
        if code is None or self._is_over:
            os._exit(self._exit_code)

        # In yet another thread: a terminal or pipe that nobody reads from would hold this one up.
        text = f"stopped: it did not end by itself within {UNWIND_S:.0f} s; {KEPT}\n"
        _thread.start_new_thread(_say, (text,))
        time.sleep(0.2)
        os._exit(code)

    def _end(self) -> None:
        _leave(self._exit_code)


def _caught() -> tuple[int, ...]:
    """Return the signals that stop a command, where this system has them."""
    names = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def _nothing_to_finish(number: int) -> str:
    return f"stopped by {signal.Signals(number).name}, with nothing to finish"


def _is_same_request(number: int, seconds_since: float) -> bool:
    return number in (signal.SIGUSR1, signal.SIGHUP) and seconds_since < AGAIN_S


def _is_launched() -> bool:
    """Return whether a launcher started this process, beside others or alone.

    They stop together; and batch systems signal the launcher and the processes, to which the
    launcher passes it on as well.
    """
    is_one_of_several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return is_one_of_several or "TORCHELASTIC_RUN_ID" in os.environ


def _is_no_place_to_raise(frame: FrameType | None) -> bool:
    """Return whether a module is being imported, or a loop compiled."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file == IMPORTING or any(compiler in file for compiler in COMPILERS):
            return True
        frame = frame.f_back
    return False


def _let_go_of_the_terminal() -> None:
    """Print nowhere where the terminal is closed: to write to it is an error from now on."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _be_a_child() -> None:
    """Give a forked process the handlers of a new one: whoever made it ends it by signals."""
    signal.set_wakeup_fd(-1)
    for number in _caught():
        # What `nohup` has ignored stays ignored.
        if signal.getsignal(number) in (signal.SIG_IGN, None):
            continue
        is_interrupt = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def _say(text: str) -> None:
    """Print to stderr, past its buffer: whoever is writing to it may have been interrupted."""
    try:
        os.write(2, text.encode())
    except OSError:
        return


def _leave(code: int) -> None:
    """End the process here.

    The end of the interpreter takes the handlers down first, so that a late signal ends it with
    -15; and it runs the destructors of C++ libraries while threads of OpenMP are alive, which now
    and then aborts (134) in place of the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError, RuntimeError):
            continue  # a broken pipe, closed, none at all, or being written to
    os._exit(code)


stop_request = StopRequest()
