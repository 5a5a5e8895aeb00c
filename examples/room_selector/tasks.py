"""Meeting rooms, and 60 requests, each with its right room.

The requests are generated from a fixed seed, so they are always the same. They do not state two rules: take the
smallest room that fits, and do not take an occupied room.
"""

from __future__ import annotations

import random
from typing import Any

ROOMS: list[dict[str, Any]] = [
    {"name": "Birch", "seats": 4, "has": ["whiteboard"], "accessible": True},
    {"name": "Cedar", "seats": 4, "has": ["screen"], "accessible": False},
    {"name": "Elm", "seats": 8, "has": ["screen", "phone"], "accessible": True},
    {"name": "Hazel", "seats": 8, "has": ["whiteboard", "screen"], "accessible": False},
    {"name": "Larch", "seats": 14, "has": ["screen", "phone", "whiteboard"], "accessible": True},
    {"name": "Oak", "seats": 24, "has": ["screen", "phone"], "accessible": True},
]
HOURS = [9, 10, 11, 13, 14, 15, 16]

_OPENINGS = [
    "We are {people} and need a room at {hour}:00.",
    "Room for {people} at {hour}:00, please.",
    "{people} of us meet at {hour}:00. Where?",
    "Please find a place for {people} people at {hour}:00.",
]
_WISHES = {
    "screen": ["We want to show slides.", "There will be a demo on a screen."],
    "whiteboard": ["We will sketch a lot.", "A whiteboard would be needed."],
    "phone": ["One colleague dials in by phone.", "Our colleague in Lima will call."],
    "accessible": ["One of us uses a wheelchair.", "It has to be accessible."],
}


def make_tasks(count: int = 60, seed: int = 7) -> list[dict[str, Any]]:
    """Generate requests that have exactly one right answer."""
    chance, tasks = random.Random(seed), list[dict[str, Any]]()
    while len(tasks) < count:
        task = _make_task(len(tasks), chance)
        if task["room"] is not None:
            tasks.append(task)
    return tasks


def _make_task(number: int, chance: random.Random) -> dict[str, Any]:
    people, hour = chance.choice([2, 3, 4, 4, 5, 6, 7, 8, 8, 12, 20]), chance.choice(HOURS)
    wishes = chance.sample(list(_WISHES), chance.choice([0, 1, 1, 2]))
    taken = sorted(chance.sample([room["name"] for room in ROOMS], chance.randint(0, 3)))
    sentences = [chance.choice(_OPENINGS).format(people=people, hour=hour)]
    sentences += [chance.choice(_WISHES[wish]) for wish in wishes]
    return {
        "id": number,
        "request": " ".join(sentences),
        "hour": hour,
        "taken": taken,
        "room": right_room(people, wishes, taken),
    }


def right_room(people: int, wishes: list[str], taken: list[str]) -> str | None:
    """Return the smallest free room with all the equipment; None if there is none, or more than one."""
    fitting = [room for room in ROOMS if _fits(room, people, wishes) and room["name"] not in taken]
    smallest = [room["name"] for room in fitting if room["seats"] == min(each["seats"] for each in fitting)]
    return smallest[0] if len(smallest) == 1 else None


def _fits(room: dict[str, Any], people: int, wishes: list[str]) -> bool:
    equipment = [*room["has"], *(["accessible"] if room["accessible"] else [])]
    return room["seats"] >= people and all(wish in equipment for wish in wishes)


TASKS = make_tasks()
TRAIN, VAL = TASKS[:24], TASKS[24:]
