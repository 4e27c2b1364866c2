"""What is done, partial, stale or corrupt, and why: nothing here changes a file.

The files are the truth about progress, ``run.json`` about configuration. An artifact is

- ``corrupt`` when a part's footer or bytes do not prove what they claim, or ``run.json`` cannot be
  read;
- ``stale`` when it is whole but was made from something that has changed since;
- ``partial`` when parts, or the summary that a stage writes last, are missing;
- ``done`` otherwise.

`folders` finds artifacts, `origins` what each was made from and where that is now, `checker`
compares the two, and `artifact_status` is the result.
"""
