"""The page's figures, as data: each is there once, and says what it is about."""

from repotune.tables import clouds, gpus, page_claims


def test_every_figure_of_the_page_is_there():
    topics: dict[str, list[str]] = {}
    for claim in page_claims():
        topics.setdefault(claim.topic, []).append(claim.id)
    counts = {topic: len(ids) for topic, ids in topics.items()}
    assert counts == {
        "vram": 4,  # the table of settings
        "preset": 4,
        "time": 10,  # the table of hours; the CPU in hours and in times
        "gpu": 11,
        "tier": 7,  # VRAM and cores of three tiers; VRAM again in the summary
        "ram": 4,  # three tiers, and the summary
        "disk": 6,
        "cloud": 7,
        "software": 3,
    }
    ids = [claim.id for claim in page_claims()]
    assert len(ids) == len(set(ids))


def test_claims_are_about_known_things():
    names = {gpu.name for gpu in gpus()}
    for claim in page_claims():
        assert set(claim.subject.get("gpus", ())) <= names
        assert claim.says is not None or (claim.low is not None and claim.unit)
        assert claim.high is None or claim.low <= claim.high
        assert claim.why is None or claim.why.endswith(".")


def test_prices_are_those_of_the_offers():
    for claim in page_claims():
        if claim.unit in ("USD/hour", "USD/month"):
            offer = next(
                one
                for one in clouds()
                if one.provider == claim.subject["provider"] and one.gpu in claim.subject["gpus"]
            )
            assert offer.page_price == claim.low
