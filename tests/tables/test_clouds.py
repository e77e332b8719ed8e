from datetime import date

import pytest

from repotune.records import CloudOffer
from repotune.tables import PRICES_CHANGE, clouds, gpus


def offer(provider: str, name: str) -> CloudOffer:
    [found] = [one for one in clouds() if (one.provider, one.name) == (provider, name)]
    return found


@pytest.mark.parametrize("one", clouds(), ids=lambda one: f"{one.provider} {one.name}")
def test_an_offer_is_plausible_and_has_a_source(one: CloudOffer) -> None:
    assert one.gpu in {gpu.name for gpu in gpus()}
    assert one.source
    assert date(2025, 1, 1) <= date.fromisoformat(one.date) <= date(2026, 12, 31)
    assert one.currency == "USD"
    assert one.free == (one.price == 0)
    assert one.free or 0.3 < one.price < 12
    assert (one.included_hours is not None) == (one.per == "month" and not one.free)
    assert one.host_ram_gb is None or 12 <= one.host_ram_gb <= 400
    assert 1 <= one.gpu_count <= 2
    limit, weekly = one.session_limit_hours, one.weekly_limit_hours
    assert limit is None or 6 <= limit <= 24
    assert weekly is None or (limit is not None and limit < weekly)


def test_no_two_offers_are_one() -> None:
    keys = [(one.provider, one.name) for one in clouds()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("provider", "name", "gpu", "page_price", "per"),
    [
        ("Google Colab", "Free", "T4", 0.0, "month"),
        ("Google Colab", "Pro", "A100 SXM4 40GB", 9.99, "month"),
        ("Kaggle", "GPU P100", "P100 PCIe", 0.0, "month"),
        ("Kaggle", "GPU T4 x2", "T4", 0.0, "month"),
        ("AWS", "g4dn.xlarge", "T4", 0.5, "hour"),
        ("AWS", "p3.2xlarge", "V100 SXM2 16GB", 3.0, "hour"),
        ("Paperspace Gradient", "Free, M4000", "Quadro M4000", 0.0, "month"),
    ],
)
def test_what_the_page_offers_is_there_with_its_price(
    provider: str, name: str, gpu: str, page_price: float, per: str
) -> None:
    one = offer(provider, name)
    assert (one.gpu, one.page_price, one.per) == (gpu, page_price, per)
    # "about $0.5" and "about $3" are today's 0.526 and 3.06.
    assert one.price == pytest.approx(page_price, rel=0.06)


def test_the_weekly_hours_of_kaggle_are_those_of_the_page() -> None:
    kaggle = [one for one in clouds() if one.provider == "Kaggle"]
    assert [one.weekly_limit_hours for one in kaggle] == [30.0, 30.0]


def test_all_providers_are_there() -> None:
    assert {one.provider for one in clouds()} >= {
        "Google Colab", "Kaggle", "AWS", "Google Cloud", "Azure", "Paperspace Gradient",
    }  # fmt: skip
    aws = {one.name.split(".")[0] for one in clouds() if one.provider == "AWS"}
    assert aws >= {"g4dn", "p3", "g5", "g6"}
    assert "change" in PRICES_CHANGE
