"""Several processes on a CPU: FSDP and DeepSpeed over gloo, and faults on one process, asked for by the environment.

accelerate turns both on for GPUs only. The patches here let it go on over gloo; everything else is its own: plug-ins from the
launcher's variables, wrappers, clipping, checkpoints. As a module it is `prefpipe` itself: ``accelerate launch -m support.on_gloo train ...``.

``SIGTERM_AT=rank:step``: that process gets the signal at the end of that step. ``FAIL_AT=rank:step``: it fails there.
``CHUNKED``: the output projection runs in chunks, as it does for large vocabularies.
"""

import os
import signal

from accelerate import DistributedType
from accelerate.state import AcceleratorState, PartialState

from prefpipe.errors import PrefpipeError
from prefpipe.training import projection, ranks, settings
from prefpipe.training.callbacks import StopWhenAsked

_accelerator_state, _prepare_backend, _translate = (
    AcceleratorState.__init__,
    PartialState._prepare_backend,
    settings._translate,
)
_on_step_end = StopWhenAsked.on_step_end
_chunked_token_logps = projection.chunked_token_logps


def _initialise(self, *arguments, fsdp_plugin=None, **named):
    _accelerator_state(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = PartialState._shared_state["distributed_type"] = (
            DistributedType.FSDP
        )
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin


def _backend(self, _cpu, *arguments, **named):
    return _prepare_backend(self, True, *arguments, **named)


def _is_here(name, step):
    return os.environ.get(name) == f"{os.environ.get('RANK', '0')}:{step}"


def _step_ends(self, arguments, state, control, **named):
    if _is_here("SIGTERM_AT", state.global_step):
        os.kill(os.getpid(), signal.SIGTERM)
    if _is_here("FAIL_AT", state.global_step):
        raise PrefpipeError("the loss is not finite", hint="lower --learning-rate")
    return _on_step_end(self, arguments, state, control, **named)


def _token_logps(*arguments, **named):
    if "CHUNKED" in os.environ:
        projection.KEPT_LOGITS, projection.CHUNK_LOGITS = 0, 5 * named["n_vocabulary"]
    return _chunked_token_logps(*arguments, **named)


if (
    os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    and os.environ.get("DS_ACCELERATOR") == "cpu"
):
    PartialState._prepare_backend = (
        _backend  # accelerate forgets DeepSpeed as soon as it is told of a CPU
    )
    settings._translate = lambda *arguments: _translate(*arguments) | {"use_cpu": False}
    ranks.processes.__kwdefaults__["cpu"] = False
AcceleratorState.__init__ = _initialise
StopWhenAsked.on_step_end = _step_ends
projection.chunked_token_logps = _token_logps

if __name__ == "__main__":
    from prefpipe.cli.main import main

    main()
