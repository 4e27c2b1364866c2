"""Names to objects: the only place that turns a config into models, back-ends and a stage.

Back-ends and stages are reached through import strings, so that a command imports what it needs and nothing else;
models are located and hashed here, and opened by the stage when the first part that needs them is made.
"""
