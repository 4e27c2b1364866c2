"""Push and pull: artifacts, models and runs to a bucket or the hub, and back."""
