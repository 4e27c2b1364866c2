"""The engines that a command has loaded, and how far their calls are."""

from prefpipe.backends.open_calls import NONE_OPEN, Answered, answered_by


class OpenEngines:
    """Engines between their opening and their end. Threads may look at any time."""

    def __init__(self) -> None:
        self._engines: tuple[object, ...] = ()

    def add(self, engine: object) -> None:
        """Note that an engine is open."""
        self._engines = (*self._engines, engine)

    def remove(self, engine: object) -> None:
        """Note that an engine is closed."""
        self._engines = tuple(each for each in self._engines if each is not engine)

    def answered(self) -> Answered:
        """Return how many requests of the open parts are answered, by all engines together."""
        total = NONE_OPEN
        for engine in self._engines:
            total = total.plus(answered_by(engine))
        return total
