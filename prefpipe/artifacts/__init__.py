"""Everything that touches disk: schemas, ids, fingerprints, atomic writes, parts, run records."""
