"""One frozen dataclass a stage: a field is the flag, the YAML key, the fingerprint entry and the reference page."""
