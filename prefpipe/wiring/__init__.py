"""Names to objects: the only place that turns a config into models, back-ends and a stage.

Back-ends and stages are imported inside the functions that need them, so a command loads only what
it needs. Models are located and hashed here; the stage opens them when it makes the first part that
needs them.
"""
