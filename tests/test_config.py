"""Every choice is checked where it is defined, and every refusal names the key and the way out."""

import math
from pathlib import Path
from typing import Any, get_args

import pytest

from repotune.config import FineTuningConfig, LinearModule, field_facts
from repotune.errors import ConfigError, UsageError
from repotune.records import LINEAR_MODULES


def test_the_names_and_defaults_that_users_were_promised() -> None:
    config = FineTuningConfig()
    assert (config.batch_size, config.gradient_accumulation_steps) == (4, 4)
    assert (config.max_seq_length, config.use_4bit, config.lora_r) == (2048, True, 16)
    assert config.gradient_checkpointing is True
    assert config.model is None
    assert config.target_modules == LINEAR_MODULES


def test_the_linears_are_those_of_the_records() -> None:
    assert get_args(LinearModule) == LINEAR_MODULES


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("batch_size", 0, "a whole number, at least 1"),
        ("batch_size", "4", "a whole number"),
        ("batch_size", True, "a whole number"),
        ("batch_size", 2.0, "a whole number"),
        ("batch_size", None, "a whole number"),
        ("max_steps", 0, "a whole number, at least 1"),
        ("max_seq_length", 15, "a whole number, at least 16"),
        ("seed", 2**32, "a whole number, at least 0 and at most 4294967295"),
        ("learning_rate", 0.0, "a number, above 0"),
        ("learning_rate", True, "a number"),
        ("learning_rate", math.nan, "a number"),
        ("learning_rate", math.inf, "a number"),
        ("lora_dropout", 1.0, "a number, at least 0 and below 1"),
        ("fim_rate", 1.5, "a number, at least 0 and at most 1"),
        ("heldout_share", 0.5, "a number, at least 0 and below 0.5"),
        ("use_4bit", 1, "true or false"),
        ("use_4bit", "true", "true or false"),
        ("model", "", "text in quotes, not empty"),
        ("model", 7, "text in quotes"),
        ("output_dir", 7, "a path in quotes"),
        ("output_dir", "", "a path in quotes, not empty"),
        ("precision", "fp8", "one of auto, bf16, fp16, fp32"),
        ("lr_scheduler_type", "sine", "one of cosine, linear, constant"),
        ("target_modules", [], "a list with at least one of q_proj"),
        ("target_modules", "q_proj", "a list with at least one of q_proj"),
        ("target_modules", ["q_proj", "lm_head"], "a list with at least one of q_proj"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_what_is_allowed(
    key: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        FineTuningConfig(**{key: value})
    message = str(caught.value)
    assert message.startswith(f"{key} = ")
    assert f"give {allowed}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("lora_rank", "lora_r"),
        ("max_seq_len", "max_seq_length"),
        ("max-steps", "max_steps"),
        ("Batch_Size", "batch_size"),
        ("epochs", "num_train_epochs"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is not a key .* the nearest is {nearest}"):
        FineTuningConfig(**{key: 1})


@pytest.mark.parametrize("key", ["xyz", "training", "optimizer", "lr"])
def test_a_key_that_is_near_to_nothing_is_refused_with_all_names(key: str) -> None:
    with pytest.raises(ConfigError, match=r"the keys are model, .*, offline"):
        FineTuningConfig(**{key: 1})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"batch_size = 0 .*; lora_rank is not a key"):
        FineTuningConfig(batch_size=0, lora_rank=8)


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(ConfigError) as caught:
        FineTuningConfig(precision="x" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"heldout_share": 0}, ("evaluate", "heldout_share")),
        ({"revision": "main"}, ("revision", "model")),
        ({"revision": "main", "model": "starter"}, ("revision", "model")),
        ({"fim_tokens": "add", "fim_rate": 0}, ("fim_tokens", "fim_rate")),
    ],
)
def test_an_impossible_combination_names_its_keys(
    values: dict[str, Any], names: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        FineTuningConfig(**values)
    assert all(name in str(caught.value) for name in names)
    assert isinstance(caught.value, UsageError)


def test_modules_are_kept_once_in_the_order_of_a_layer() -> None:
    config = FineTuningConfig(target_modules=["v_proj", "q_proj", "v_proj"])
    assert config.target_modules == ("q_proj", "v_proj")


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    config = FineTuningConfig(
        model="org/model",
        revision="abc",
        learning_rate=1e-5,
        max_steps=7,
        output_dir=tmp_path / "출력 폴더",
        target_modules=("q_proj",),
        evaluate=False,
    )
    file = tmp_path / "c.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert FineTuningConfig.from_toml(file) == config


def test_json_gives_back_what_was_written(tmp_path: Path) -> None:
    config = FineTuningConfig(output_dir=tmp_path, target_modules=("q_proj",))
    assert FineTuningConfig(**config.model_dump(mode="json")) == config


def test_overrides_go_before_the_file_and_are_checked_with_it(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("heldout_share = 0\nbatch_size = 2\nlora_r = 8\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="heldout_share"):
        FineTuningConfig.from_toml(file)
    config = FineTuningConfig.from_toml(file, {"evaluate": False, "lora_r": 4})
    assert (config.heldout_share, config.batch_size, config.lora_r) == (0, 2, 4)


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    file = tmp_path / "c.toml"
    file.write_text('output_dir = "~/runs/one"\n', encoding="utf-8")
    assert FineTuningConfig.from_toml(file).output_dir == tmp_path / "runs" / "one"
    assert FineTuningConfig(output_dir=Path("~")).output_dir == tmp_path
    assert FineTuningConfig(output_dir=Path("a~b")).output_dir == Path("a~b")


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "notepad.toml"
    file.write_bytes(b"\xef\xbb\xbfbatch_size = 2\r\n")
    assert FineTuningConfig.from_toml(file).batch_size == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"batch_size = 2\nlora_r = = 3\n", "line 2"),
        (b"batch_size = 2\nbatch_size = 3\n", "not valid TOML"),
        ("model = '모델'".encode("cp949"), "not UTF-8 text"),
        (b"[training]\nbatch_size = 2\n", r"training is a table, .* without \[training\]"),
        (b"batch_size = [2]\n", "a whole number"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        FineTuningConfig.from_toml(file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            FineTuningConfig.from_toml(path)


def test_merged_changes_only_what_is_named_and_checks_the_whole() -> None:
    config = FineTuningConfig(lora_r=8)
    assert config.merged({"batch_size": 1}) == FineTuningConfig(lora_r=8, batch_size=1)
    assert config.batch_size == 4
    with pytest.raises(ConfigError, match="heldout_share"):
        config.merged({"heldout_share": 0})


def test_every_field_says_what_it_is_for_and_its_default_is_allowed() -> None:
    facts = field_facts()
    assert [field.name for field in facts] == list(FineTuningConfig.model_fields)
    for field in facts:
        assert field.description.endswith(".")
        assert field.allowed
    required = {field.name: field.default for field in facts if field.default is not None}
    assert FineTuningConfig(**required) == FineTuningConfig()
