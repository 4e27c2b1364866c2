"""``prefpipe eval rewardbench`` and ``eval calibration``: scored pairs."""
