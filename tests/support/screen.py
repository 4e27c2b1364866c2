"""A terminal for tests: what is on its screen after some output, and whether its cursor is seen."""

import re

CONTROL = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen:
    """Lines of a terminal that is as high as needed; wide lines are folded, as terminals do."""

    def __init__(self, width: int = 80) -> None:
        self.width = width
        self.cells: list[list[str]] = [[]]
        self.row = self.column = 0
        self.is_cursor_seen = True

    def write(self, text: str) -> "Screen":
        """Take output."""
        place = 0
        while place < len(text):
            control = CONTROL.match(text, place)
            if control is not None:
                self._obey(*control.groups())
                place = control.end()
                continue
            self._put(text[place])
            place += 1
        return self

    @property
    def lines(self) -> list[str]:
        """What can be read, without empty lines at the end."""
        lines = ["".join(cells).rstrip() for cells in self.cells]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._go_down()
        else:
            assert character.isprintable(), repr(character)
            if self.column == self.width:
                self._go_down()
                self.column = 0
            cells = self.cells[self.row]
            cells.extend(" " * (self.column + 1 - len(cells)))
            cells[self.column] = character
            self.column += 1

    def _go_down(self) -> None:
        # the terminal's driver adds the carriage return
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.cells):
            self.cells.append([])

    def _obey(self, private: str, numbers: str, command: str) -> None:
        if private:
            assert numbers == "25", numbers
            self.is_cursor_seen = command == "h"
        elif command == "A":
            self.row -= int(numbers or 1)
            assert self.row >= 0, "above the first line"
        elif command == "K":
            assert numbers == "2", numbers
            self.cells[self.row] = []
        else:
            assert command == "m", command
