"""An evaluation in several processes over gloo, as a launcher would start them."""

import json
import os
import socket
from pathlib import Path

from support.training_job import FORK


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def evaluate(folder, rank, world, port, n_groups, shape):
    """Evaluate the same model on the same groups, or train with early stopping.

    Process 0 writes the figures.
    """
    shape = dict(shape)
    patience = shape.pop("patience", None)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaForCausalLM

    from prefpipe.maths.objectives.registry import resolve_knobs
    from prefpipe.training.early_stopping import EarlyStopping
    from prefpipe.training.forward import share_prompts
    from prefpipe.training.settings import TrainSettings, training_arguments
    from prefpipe.training.trainer import GroupTrainer
    from support.tiny_groups import make_groups
    from support.tiny_models import make_tiny_tokenizer, tiny_config

    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config())
    assert share_prompts(model) is None
    settings = TrainSettings(
        objective="simpo",
        knobs=resolve_knobs("simpo", {}),
        **({"learning_rate": 1e-3, "global_batch_size": 8} | shape),
    )
    trainer = GroupTrainer(
        model,
        training_arguments(settings, Path(folder)),
        settings,
        make_groups(4),
        tokenizer=make_tiny_tokenizer(),
        eval_groups=make_groups(n_groups, seed=1),
        callbacks=[] if patience is None else [EarlyStopping(patience)],
    )
    assert trainer.args.world_size == world
    if patience is None:
        figures = trainer.evaluate()
    else:
        trainer.train()
        (early,) = (
            each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStopping)
        )
        saved = load_file(Path(folder) / f"checkpoint-{early.best['step']}" / "model.safetensors")
        assert all(
            value.equal(saved[name])
            for name, value in trainer.model.state_dict().items()
            if name in saved
        )
        figures = {"best": early.best, "last": trainer.state.global_step}
    if rank == 0:
        (Path(folder) / "figures.json").write_text(json.dumps(figures))
    torch.distributed.destroy_process_group()


def evaluate_in(folder, world, n_groups, **shape):
    """Return the figures that ``world`` processes agree on."""
    folder.mkdir()
    port = free_port()
    processes = [
        FORK.Process(target=evaluate, args=(folder, rank, world, port, n_groups, shape))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    for process in processes:
        if process.exitcode is None:
            process.kill()
    assert [process.exitcode for process in processes] == [0] * world
    return json.loads((folder / "figures.json").read_text())
