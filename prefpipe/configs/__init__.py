"""One frozen dataclass a stage.

A field is the flag, the YAML key, the fingerprint entry and the line of the reference page; its
bounds are declared on it.
"""
