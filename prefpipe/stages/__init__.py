"""One file a command: open inputs, loop over parts, call a back-end or the mathematics, commit."""
