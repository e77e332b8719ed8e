"""The generated page says what the configuration says today."""

from pathlib import Path

from repotune.cli.settings_page import settings_page


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), "run `make docs`"
