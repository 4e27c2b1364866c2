"""Names to objects: the only place that turns a config into models, back-ends and a stage.

Back-ends and stages are imported inside the functions that need them, so that a command loads what
it needs and nothing else. Models are located and hashed here, and opened by the stage when the
first part that needs them is made.
"""
