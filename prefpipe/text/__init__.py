"""Strings in, strings and numbers out: no files, no configuration, no clock."""
