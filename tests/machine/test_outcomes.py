"""How the last predictions did, in a sentence."""

from dataclasses import replace

from repotune.machine import track_record
from repotune.records import Outcome

RUN = Outcome(
    machine_id="0123456789ab",
    model="starter",
    config={"batch_size": 1},
    predicted_peak_bytes=1000,
    measured_peak_bytes=950,
    predicted_tokens_per_second=100.0,
    measured_tokens_per_second=110.0,
    steps=50,
    date="2026-11-25T11:00:00+00:00",
)


def test_one_run_and_several():
    assert track_record([RUN]) == (
        "The last run here had 1.10 times the predicted speed and 0.95 times the predicted peak of "
        "memory."
    )
    slower = replace(RUN, measured_tokens_per_second=97.0)
    assert track_record([RUN, slower]).startswith(
        "The last 2 runs here had 0.97 to 1.10 times the predicted speed and 0.95 times"
    )


def test_only_the_last_five_count():
    old = replace(RUN, measured_tokens_per_second=500.0)
    assert track_record([old, *[RUN] * 5]) == track_record([RUN] * 5)
    assert "5.00" in track_record([old, *[RUN] * 4])


def test_what_says_nothing_is_left_out():
    short = replace(RUN, steps=19)
    assert track_record([]) is None
    assert track_record([short]) is None
    no_peak = replace(RUN, measured_peak_bytes=None)
    assert track_record([no_peak]) == "The last run here had 1.10 times the predicted speed."
    nothing = replace(no_peak, predicted_tokens_per_second=None)
    assert track_record([nothing, short]) is None
