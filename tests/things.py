"""A task that the words of `tests.tiny` can say: four things, what each is, and why."""

from __future__ import annotations

THINGS = {
    "trout": ("animal", "it swims in water"),
    "apple": ("fruit", "it grows on trees"),
    "hammer": ("tool", "it hits nails"),
    "violin": ("instrument", "it plays music"),
}
LABELS = tuple(label for label, _ in THINGS.values())


def asked(thing: str, number: int) -> str:
    """The question about `thing` that is number `number` of as many as one likes."""
    return f"what kind of thing is {'a ' * number}{thing} ?"


def answered(prompt: str, seed: int) -> str:
    """A teacher's output, of nothing but its arguments; one in five names the wrong kind."""
    thing = prompt.rsplit(" ?", 1)[0].rsplit(" ", 1)[1]
    if seed % 5 == 0:
        thing = sorted(THINGS)[sorted(THINGS).index(thing) - 1]
    label, reason = THINGS[thing]
    return f" {'so ' * (seed % 2)}{reason}\n<Answer>: {label}"
