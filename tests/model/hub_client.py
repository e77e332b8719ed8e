"""A child process of ``test_hub.py``, started with HF_ENDPOINT and HF_HOME of the test.

Each line of its input is a JSON object of arguments of ``resolve_model``; each answer a JSON line:
what came back, or the error, and the events. The hub library reads its settings when it is
imported, so they can only be set for a process.
"""

import json
import sys
from dataclasses import asdict

from repotune.errors import RepotuneError
from repotune.model import resolve_model


def say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    say("ready")
    for line in sys.stdin:
        events = []
        try:
            ref = resolve_model(**json.loads(line), cache=None, emit=events.append)
            answer = {"ref": asdict(ref)}
        except RepotuneError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        answer["events"] = [{"kind": type(event).__name__, **asdict(event)} for event in events]
        say(answer)


if __name__ == "__main__":
    main()
