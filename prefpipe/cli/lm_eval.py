"""``prefpipe eval lm-eval``: the command that evaluates a model on public benchmarks."""

from prefpipe.configs.lm_eval import LmEvalConfig


def lm_eval(config: LmEvalConfig) -> None:
    """Print the command."""
    from prefpipe.cli.stdout import pipe
    from prefpipe.stages.evaluate.lm_eval_command import lm_eval_command

    command = lm_eval_command(
        config.model,
        config.task_names,
        output=config.output,
        batch_size=config.batch_size,
        dtype=config.dtype or "auto",
    )
    pipe(command)
