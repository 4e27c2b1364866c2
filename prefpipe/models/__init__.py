"""What a model folder is: files, tokenizer, location, shape, and the models that ship with a package."""
