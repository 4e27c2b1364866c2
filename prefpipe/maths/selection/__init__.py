"""Which candidates of a prompt become its positives and its negatives."""
