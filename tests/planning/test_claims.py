"""Every figure of the requirements page beside ours; where they differ there is a reason."""

import pytest

from repotune.planning.claims import agrees, our_figure, our_verdict
from repotune.tables import clouds, gpus, page_claims, presets

from .setups import CODELLAMA

COMPUTED = ("vram", "preset", "time", "gpu", "tier", "ram", "disk", "cloud")


def ours(claim):
    verdict = our_verdict(claim, CODELLAMA, gpus=gpus(), presets=presets())
    figure = our_figure(claim, CODELLAMA, gpus=gpus(), presets=presets(), offers=clouds())
    return verdict, figure


@pytest.mark.parametrize("claim", page_claims(), ids=lambda claim: claim.id)
def test_we_agree_or_say_why_not(claim):
    verdict, figure = ours(claim)
    if verdict is not None:
        agreed = verdict == claim.says
    elif figure is not None:
        assert 0 <= figure.low <= figure.expected <= figure.high
        agreed = agrees(claim, figure)
    else:  # cores, versions: nothing to compute
        assert claim.unit == "cores" or claim.topic == "software"
        agreed = False
    assert agreed == (claim.why is None)


def test_what_can_be_computed_is():
    for claim in page_claims():
        if claim.topic in COMPUTED and claim.unit != "cores":
            assert any(one is not None for one in ours(claim)), claim.id
