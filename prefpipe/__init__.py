"""prefpipe: prompts, a language model and a rater in; a better language model out.

Importing the package imports nothing else, so that ``prefpipe --help`` stays instant.
"""

__version__ = "0.1.0"
