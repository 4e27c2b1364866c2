"""Arrays in, arrays out: no files, no config, no logging, no clock, no global random state."""
