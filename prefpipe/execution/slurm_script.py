"""The script of a Slurm array whose tasks make the parts of one stage, a shard each."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join, quote

RUN_AGAIN = 75
"""Exit code of a command that stopped early and is safe to run again."""
KILLED_BY_USR1 = 128 + 10
"""Exit code of a program killed by SIGUSR1 before it had a handler: it has begun nothing."""


@dataclass(frozen=True)
class SlurmArray:
    """The contents of the script.

    Args:
        words: the stage's command as typed.
        program: the command that runs prefpipe, as shell words.
        activation: shell lines before it.
        folder: where the command runs.
        tasks: the value of ``--array``.
        first_shard: the shard of task 0. Tasks of a window are numbered below MaxArraySize.
        num_shards: how many workers divide the parts; None if each takes the next free part.
        directives: name and value of each ``#SBATCH`` line beside the array's own.
        max_requeues: how often a task queues itself again.
        comment: a line that describes the script.
    """

    words: Sequence[str]
    program: Sequence[str]
    activation: Sequence[str]
    folder: Path
    tasks: str
    first_shard: int
    num_shards: int | None
    directives: Sequence[tuple[str, str | None]]
    max_requeues: int
    comment: str

    def script(self) -> str:
        """Return the text for sbatch."""
        blocks = [self._header(), self._share(), self._surroundings(), self._run(), self._end()]
        return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"

    def _header(self) -> Iterator[str]:
        yield "#!/bin/bash"
        for name, value in [("array", self.tasks), *self.directives]:
            yield f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={_quoted(value)}"
        yield f"# {self.comment}"

    def _share(self) -> Iterator[str]:
        """Yield the lines that tell a task which worker it is.

        Slurm copies variables of the submitting shell, so all are set here.
        """
        yield "# Without sbatch the script ends here: it needs both variables."
        for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
            yield f': "${{{name}:?is not set: submit this script with sbatch}}"'
        if self.num_shards is None:
            yield "unset PREFPIPE_SHARD_INDEX PREFPIPE_NUM_SHARDS"
            return
        shard = "$SLURM_ARRAY_TASK_ID"
        if self.first_shard:
            shard = f"$((SLURM_ARRAY_TASK_ID + {self.first_shard}))"
        yield f"export PREFPIPE_SHARD_INDEX={shard} PREFPIPE_NUM_SHARDS={self.num_shards}"

    def _surroundings(self) -> Iterator[str]:
        yield f"cd {quote(str(self.folder))} || exit 1"
        yield from self.activation
        if self.activation:
            yield (
                f"command -v {join(self.program)} > /dev/null || "
                "{ echo 'error: prefpipe is not found; correct the activation lines above' "
                ">&2; exit 1; }"
            )

    def _run(self) -> Iterator[str]:
        """Yield the lines that run the command and pass signals on.

        A signal ends bash's `wait`, not the program. It may come before the program exists, or get
        lost while bash's fork becomes the program: so it is sent twice. To prefpipe a second
        SIGUSR1 or SIGHUP is the same request, a second SIGTERM is "at once"; Slurm itself sends
        SIGTERM to all processes, so that it is passed on as SIGHUP.
        """
        yield "# Slurm signals this shell, which passes the signal on and waits for the end."
        yield "signal= early= worker="
        yield "pass_on() {"
        yield '    [ -n "$worker" ] || { early=$1; return; }'
        yield '    kill "-$1" "$worker" 2> /dev/null; sleep 1; kill "-$1" "$worker" 2> /dev/null'
        yield "}"
        yield "trap 'signal=USR1; pass_on USR1' USR1"
        yield "trap 'signal=TERM; sleep 1; pass_on HUP' TERM"
        yield f"{join([*self.program, *self.words])} &"
        yield "worker=$!"
        yield '[ -z "$early" ] || pass_on "$early"'
        yield 'while kill -0 "$worker" 2> /dev/null; do wait "$worker"; done'
        yield 'wait "$worker"'
        yield "code=$?"

    def _end(self) -> Iterator[str]:
        task = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
        restarts = "${SLURM_RESTART_COUNT:-0}"
        yield f"# {RUN_AGAIN}: stopped early. SIGTERM comes from scancel: do not queue again."
        yield f'[ "$code" -eq {KILLED_BY_USR1} ] && code={RUN_AGAIN}'
        yield f'if [ "$code" -eq {RUN_AGAIN} ] && [ "$signal" != TERM ]; then'
        yield f'    if [ "{restarts}" -lt {self.max_requeues} ]; then'
        yield f'        scontrol requeue "{task}"'
        yield "    else"
        yield (
            f'        echo "error: queued again {restarts} times, the limit of --max-requeues; '
            'to go on, print the script again" >&2'
        )
        yield "    fi"
        yield "fi"
        yield 'exit "$code"'


def _quoted(value: str) -> str:
    """Return a value quoted and escaped for an ``#SBATCH`` line."""
    if re.fullmatch(r"[\w./:,@%+=-]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
