"""Engines that sample: transformers, vLLM, a served model."""
