"""Best-fit packing (arXiv 2404.10830): pieces into rows of one length, none of them cut.

capacity 8, pieces of 8 5 4 3 2 1     rows: [8] [5 3] [4 2 1]
"""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The pieces (by their place in ``lengths``) of each row; no row holds more than ``capacity``.

    Longest piece first, each into the fullest row that has room for it, or a new one. Which rows
    have how much room is one bit set, so a piece costs one shift, whatever their number.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    room_set = 0
    for piece in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        length = lengths[piece]
        assert 0 < length <= capacity, f"a piece of {length} tokens for rows of {capacity}"
        fitting = room_set >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                room_set ^= 1 << room
            rows[row].append(piece)
        else:
            room, row = capacity, len(rows)
            rows.append([piece])
        left = room - length
        with_room[left].append(row)
        room_set |= 1 << left
    return rows
