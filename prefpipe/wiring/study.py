"""A study, run: one process after another makes its steps, and its ledger says which are made.

Any number of copies of the command share a study. What all runs need is made by one copy, and the
others wait for it; after that each copy takes an arm and seed that no other holds.
"""

import shlex
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from prefpipe.artifacts.atomic import make_folder
from prefpipe.artifacts.holders import Held, Holder, Lock
from prefpipe.artifacts.overwriting import Overwrite
from prefpipe.artifacts.step_ledger import STOPPED_CODES, StepEntry, StepLedger
from prefpipe.configs.study import StudyConfig
from prefpipe.configs.study_plan import StudyPlan
from prefpipe.configs.study_record import write_study_record
from prefpipe.configs.study_steps import TRAINER, StudyStep, run_steps, selection_steps
from prefpipe.errors import PrefpipeError
from prefpipe.execution.step_process import SignalSource, run_command, run_step
from prefpipe.models.files import CONFIG_FILES
from prefpipe.stages.study.progress import RunProgress, StudyProgress, fingerprint_on_disk
from prefpipe.stages.study.results import write_results
from prefpipe.stages.study.step_tokens import tokens_of
from prefpipe.stages.study.weights import has_weights, remove_weights
from prefpipe.wiring.step_ends import (
    environment_of_steps,
    error_of_step,
    settled_code,
    what_code_says,
)

LOCKS = "locks"
"""Folder of a study: a file a piece of work, locked by who is at it."""
POLL_S = 0.5
LONGEST_WAIT_S = 30.0
"""For a step that outlived its `prefpipe study`: it ends within its grace."""
MOST_NAMED = 5
"""Runs that a message names."""


class Ending(NamedTuple):
    """What to say at the end of a study that is not done, and the exit code."""

    error: PrefpipeError
    exit_code: int
