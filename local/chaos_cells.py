"""The cells that chaos students run, and what each must come to.

Owns the exam: code whose every line of output is numbered and carries when it was printed, that counts in a variable
and in a file how often it ran, and that can be checked without knowing how the server works. Draws from the generator
that it is given, so that a seed gives the same notebook again. Runs nothing.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final, Literal

End = Literal["ok", "result", "error"]

RAN_FILE: Final = "ran.txt"
BURST_FILE: Final = "burst"
PRINTED_FILE: Final = "printed"
BURST_LINES: Final = 12_000
BURST_PADDING: Final = 1_000  # so 12 MB: three times what the flight recorder keeps
LINE: Final = re.compile(r"(?P<cell>[a-z]+\d+-\d+) (?P<number>\d{5}) (?P<printed>\d+\.\d{4}) (?P<text>.*)")

# The functions are variables too: a cell that does not find them has lost its kernel's state.
SETUP: Final = f"""
import os, time
counter = 0
def ran(cell):
    global counter
    counter += 1
    with open({RAN_FILE!r}, "a") as file:
        file.write(f"{{cell}} {{counter}}\\n")
def say(cell, number, text="", flush=True):
    print(f"{{cell}} {{number:05d}} {{time.monotonic():.4f}} {{text}}", flush=flush)
def lines(cell, start, count, pause):
    for number in range(start, start + count):
        say(cell, number, "steady")
        time.sleep(pause)
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: `texts[n]` is what line n must say; `prompts` are what it asks for with `input`, in order."""

    name: str
    kind: str
    code: str
    texts: tuple[str, ...]
    end: End = "ok"
    prompts: tuple[str, ...] = ()

    def answer(self, prompt: str) -> str:
        """What the student types."""
        return f"answer-to-{prompt}"


def deal(name: str, generator: random.Random) -> Cell:
    """Some cell."""
    kinds, weights = (steady, asking, big, failing, resulting), (5, 2, 2, 1, 2)
    (make,) = generator.choices(kinds, weights)
    return make(name, generator)


def steady(name: str, generator: random.Random) -> Cell:
    """Line after line with pauses."""
    count, pause = generator.randint(20, 60), generator.uniform(0.02, 0.06)
    return Cell(name, "steady", f"ran({name!r})\nlines({name!r}, 0, {count}, {pause:.3f})", ("steady",) * count)


def asking(name: str, generator: random.Random) -> Cell:
    """Lines, two questions whose answers are printed, lines."""
    before, after = generator.randint(1, 15), generator.randint(5, 15)
    prompts = (f"{name}/first", f"{name}/second")
    code = [f"ran({name!r})", f"lines({name!r}, 0, {before}, 0.03)"]
    code += [f"say({name!r}, {before + at}, input({prompt!r}))" for at, prompt in enumerate(prompts)]
    code += [f"lines({name!r}, {before + 2}, {after}, 0.03)"]
    answers = tuple(f"answer-to-{prompt}" for prompt in prompts)
    texts = ("steady",) * before + answers + ("steady",) * after
    return Cell(name, "asking", "\n".join(code), texts, prompts=prompts)


def big(name: str, generator: random.Random) -> Cell:
    """Some 100 to 300 kB as fast as they can be printed, in pieces as the kernel likes, and a pause in the middle."""
    count, at = generator.randint(1_000, 3_000), generator.randint(1, 900)
    code = f"ran({name!r})\nfor n in range({count}):\n    say({name!r}, n, 'x' * 80, flush=False)\n"
    code += f"    if n == {at}: time.sleep(0.5)"
    return Cell(name, "big", code, ("x" * 80,) * count)


def failing(name: str, generator: random.Random) -> Cell:
    """Lines, then an error."""
    count = generator.randint(5, 30)
    code = f"ran({name!r})\nlines({name!r}, 0, {count}, 0.03)\nraise ValueError({name!r})"
    return Cell(name, "failing", code, ("steady",) * count, "error")


def resulting(name: str, generator: random.Random) -> Cell:
    """Lines, then a result."""
    count = generator.randint(5, 30)
    code = f"ran({name!r})\nlines({name!r}, 0, {count}, 0.03)\n{name!r}"
    return Cell(name, "resulting", code, ("steady",) * count, "result")


def burst(name: str) -> Cell:
    """Waits for BURST_FILE, then prints far more than the flight recorder keeps, and says in PRINTED_FILE that it has.

    Thirty seconds of steady lines at the most go before, so that it ends even if nobody lets it go on.
    """
    text = "x" * BURST_PADDING
    code = f"""ran({name!r})
for n in range(10):
    say({name!r}, n, "steady")
for _ in range(3000):
    if os.path.exists({BURST_FILE!r}): break
    time.sleep(0.01)
for n in range(10, {BURST_LINES}):
    say({name!r}, n, {text!r}, flush=n % 10 == 0)
open({PRINTED_FILE!r}, "w").close()
time.sleep(1)
say({name!r}, {BURST_LINES}, "steady")"""
    return Cell(name, "burst", code, ("steady",) * 10 + (text,) * (BURST_LINES - 10) + ("steady",))
