"""What a model folder is: files, weights, tokenizer, location, shape, bundled models."""
