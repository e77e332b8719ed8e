"""Planted secrets are found and replaced; what only resembles one is left alone."""

import pytest

from repotune.corpus.secrets import find_secrets, redact, replace_values

from .planted import planted

KINDS = planted(0)


def around(line):
    return f"import os\n\n{line}\n\n\ndef double(x):\n    return 2 * x\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_secret_of_each_kind_becomes_a_placeholder(kind) -> None:
    for seed in range(3):
        secret, line = planted(seed)[kind]
        redacted = redact(around(line), words_are_names=True)
        assert redacted.text is not None
        assert secret not in redacted.text
        assert secret in redacted.values
        (name,) = redacted.counts
        assert redacted.counts[name] == 1
        assert redacted.text == around(line.replace(secret, f"<SECRET:{name}>"))


def test_all_kinds_in_one_file_go_together() -> None:
    assert len(KINDS) >= 16
    text = "\n".join(line for _, line in KINDS.values())
    redacted = redact(text + "\n" + text, words_are_names=True)
    assert redacted.text is not None
    for secret, _ in KINDS.values():
        assert secret not in redacted.text
    assert redacted.counts.total() == 2 * len(KINDS)
    assert all(secret not in repr(redacted) for secret, _ in KINDS.values())


def test_a_secret_is_replaced_wherever_it_stands_in_the_text() -> None:
    secret, line = KINDS["github"]
    redacted = redact(f"{line}\n# see prefix{secret}suffix\n", words_are_names=True)
    assert redacted.text is not None
    assert secret not in redacted.text
    assert redacted.counts.total() == 2


def test_a_comment_that_allows_a_leak_changes_nothing() -> None:
    secret, line = KINDS["stripe"]
    redacted = redact(f"{line}  # betterleaks:allow gitleaks:allow\n", words_are_names=True)
    assert redacted.text is not None
    assert secret not in redacted.text
    assert redacted.text.endswith("  # betterleaks:allow gitleaks:allow\n")


@pytest.mark.parametrize(
    "line",
    [
        "password = get_password()",
        "password: Annotated[str, Option()] = None",
        "password: Callable[[str], str]",
        "password = self.settings2.Pass",
        'password1 = forms.get("password1")',
        'password = "test123"',
        'token = "<your-token-here>"',
        'api_key = "${API_KEY}"',
        'api_key = "{{ vault.Key1 }}"',
        "secret = os.environ['SECRET_KEY']",
        'DSN = "postgres://user:password@localhost/db"',
        'key = "some.module.name"',
        'token = "begin_of_line"',
    ],
)
def test_names_words_and_templates_are_no_secrets(line) -> None:
    assert redact(around(line), words_are_names=True).text == around(line)


def test_a_word_without_quotes_is_a_value_in_a_shell() -> None:
    value = "Rk4" + "pL92xwQz"
    line = f"export DB_PASSWORD={value}\n"
    assert find_secrets(line, words_are_names=True) == {}
    assert find_secrets(line, words_are_names=False) == {value: "generic-password"}
    assert find_secrets("export DB_PASSWORD=$DB_PASS1\n", words_are_names=False) == {}


def test_the_longest_value_wins_and_short_ones_are_whole_words() -> None:
    text, counts = replace_values(
        "abcdefgh abcdefghij xabc12 abc12", {"abcdefgh": "a", "abcdefghij": "b", "abc12": "c"}
    )
    assert text == "<SECRET:a> <SECRET:b> xabc12 <SECRET:c>"
    assert counts == {"a": 1, "b": 1, "c": 1}


def test_a_redacted_text_is_clean() -> None:
    text = "\n".join(line for _, line in KINDS.values())
    once = redact(text, words_are_names=True)
    assert once.text is not None
    assert find_secrets(once.text, words_are_names=True) == {}
