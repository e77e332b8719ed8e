"""Small source trees for the tests of this folder."""

import random
from pathlib import Path

CODE = '''"""Points in a plane."""


class Point:
    """A point that can be moved."""

    def __init__(self, x, y):
        self.x = x
        self.y = y

    def moved(self, dx, dy):
        """Another point, further by dx and dy."""
        return Point(self.x + dx, self.y + dy)
'''


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write ``files`` (path -> content) below ``root``; return ``root``."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def program(seed: int, lines: int = 30) -> str:
    """A program that resembles no other seed's."""
    rng = random.Random(seed)
    words = [
        "".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randrange(3, 9))) for _ in range(60)
    ]
    body = [
        f"    {rng.choice(words)} = {rng.choice(words)}({rng.choice(words)}, {rng.choice(words)})"
        for _ in range(lines)
    ]
    return f"def {words[0]}({words[1]}):\n" + "\n".join(body) + f"\n    return {words[2]}\n"
