"""``prefpipe merge``: a LoRA adapter and its base become a model folder, checked."""

from prefpipe.configs.merge import MergeConfig


def merge(config: MergeConfig) -> None:
    """Merge, and print the folder or the figures."""
    from prefpipe.wiring.extras import require_extras

    require_extras(config)

    from prefpipe.artifacts.atomic import require_free
    from prefpipe.cli import stderr, stdout
    from prefpipe.cli.signals import stop_request
    from prefpipe.execution.runtime import Runtime

    # before libraries that take seconds to load, and before a base is fetched
    if not config.overwrite:
        require_free(config.output, "choose a new folder with -o, or pass --overwrite")

    from prefpipe.models.location import locate_model
    from prefpipe.stages.merge import MergeRequest
    from prefpipe.stages.merge import merge as run_merge

    files = locate_model(
        config.adapter, trust_remote_code=config.trust_remote_code, base=config.model
    )
    request = MergeRequest(
        config.output,
        config.dtype,
        config.overwrite,
        base_given=config.model is not None,
        trust_remote_code=config.trust_remote_code,
    )
    runtime = Runtime(log=stderr.log, should_stop=stop_request, finishing=stop_request.finishing)
    figures = run_merge(files, request, runtime)

    with stop_request.finishing():  # the model has its name: the command is done
        if config.as_json:
            stdout.pipe_json(figures)
        else:
            stdout.pipe(str(config.output))
