"""What tests share: small models, servers, files of other tools, and pipelines that have run."""
