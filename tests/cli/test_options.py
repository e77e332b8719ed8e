"""The flags are the fields of FineTuningConfig, and their list is frozen."""

from pathlib import Path

import pytest

from repotune.cli.complete import parse_location
from repotune.cli.options import flag_name
from repotune.cli.tune import command
from repotune.config import FineTuningConfig
from repotune.errors import UsageError

FLAGS = """
--resume
--config
--model
--revision
--batch-size
--gradient-accumulation-steps
--max-seq-length
--use-4bit --no-use-4bit
--lora-r
--lora-alpha
--lora-dropout
--target-modules
--learning-rate
--lr-scheduler-type
--warmup-ratio
--weight-decay
--max-grad-norm
--num-train-epochs
--max-steps
--precision
--seed
--heldout-share
--fim-rate
--fim-tokens
--gradient-checkpointing --no-gradient-checkpointing
-o --output-dir
--save-steps
--evaluate --no-evaluate
--eval-max-tokens
--eval-steps
--early-stopping-patience
--allow-shorter-rows --no-allow-shorter-rows
--rehearsal --no-rehearsal
--deterministic --no-deterministic
--memorisation-canaries
--keep-vendored --no-keep-vendored
--offline --no-offline
--json
"""


def test_the_flags_of_tune_are_these() -> None:
    flags = [
        " ".join([*option.opts, *option.secondary_opts])
        for option in command.params
        if option.param_type_name == "option"
    ]
    assert flags == FLAGS.split("\n")[1:-1]


def test_every_field_has_its_flag() -> None:
    assert {flag_name(name) for name in FineTuningConfig.model_fields} <= set(FLAGS.split())


def test_every_flag_gives_its_field_a_value_that_the_configuration_takes() -> None:
    arguments = (
        "--model m --revision v1 --batch-size 1 --gradient-accumulation-steps 2 "
        "--max-seq-length 512 --no-use-4bit --lora-r 8 --lora-alpha 16 --lora-dropout 0.1 "
        "--target-modules v_proj,q_proj --learning-rate 1e-4 --lr-scheduler-type linear "
        "--warmup-ratio 0.1 --weight-decay 0.01 --max-grad-norm 2 --num-train-epochs 2.5 "
        "--max-steps 7 --precision fp32 --seed 1 --heldout-share 0.2 --fim-rate 0.2 "
        "--fim-tokens add --no-gradient-checkpointing -o out --save-steps 5 --no-evaluate "
        "--eval-max-tokens 900 --eval-steps 20 --early-stopping-patience 5 --allow-shorter-rows "
        "--no-rehearsal --deterministic --memorisation-canaries 3 --keep-vendored --offline"
    )
    context = command.make_context("tune", ["tree", *arguments.split()])
    values = {name: context.params[name] for name in FineTuningConfig.model_fields}
    config = FineTuningConfig(**values)
    assert config == FineTuningConfig(
        model="m",
        revision="v1",
        batch_size=1,
        gradient_accumulation_steps=2,
        max_seq_length=512,
        use_4bit=False,
        lora_r=8,
        lora_alpha=16.0,
        lora_dropout=0.1,
        target_modules=("q_proj", "v_proj"),
        learning_rate=1e-4,
        lr_scheduler_type="linear",
        warmup_ratio=0.1,
        weight_decay=0.01,
        max_grad_norm=2.0,
        num_train_epochs=2.5,
        max_steps=7,
        precision="fp32",
        seed=1,
        heldout_share=0.2,
        fim_rate=0.2,
        fim_tokens="add",
        gradient_checkpointing=False,
        output_dir=Path("out"),
        save_steps=5,
        evaluate=False,
        eval_max_tokens=900,
        eval_steps=20,
        early_stopping_patience=5,
        allow_shorter_rows=True,
        rehearsal=False,
        deterministic=True,
        memorisation_canaries=3,
        keep_vendored=True,
        offline=True,
    )
    defaults = FineTuningConfig()
    same = [name for name, value in config if value == dict(defaults)[name]]
    assert same == []


def test_a_flag_that_was_not_given_is_none() -> None:
    context = command.make_context("tune", ["tree"])
    assert {context.params[name] for name in FineTuningConfig.model_fields} == {None}


@pytest.mark.parametrize(
    ("text", "path", "line", "column"),
    [
        ("src/app.py:12", "src/app.py", 12, None),
        ("src/app.py:12:5", "src/app.py", 12, 5),
        ("C:\\src\\x.py:12", "C:\\src\\x.py", 12, None),
        ("C:\\src\\x.py:12:5", "C:\\src\\x.py", 12, 5),
        ("C:/src/x.py:1", "C:/src/x.py", 1, None),
        ("폴더/파일 이름.py:3", "폴더/파일 이름.py", 3, None),
        ("odd:7:name.py:3:1", "odd:7:name.py", 3, 1),
    ],
)
def test_a_place_in_a_file_is_read_from_its_end(
    text: str, path: str, line: int, column: int | None
) -> None:
    assert parse_location(text) == (Path(path), line, column)


@pytest.mark.parametrize(
    "text",
    ["", "app.py", "app.py:", ":3", "app.py:x", "app.py:-1", "app.py:0", "app.py:1:0", "a:1:",
     "app.py:٣", "app.py:3\n", "app.py:99999999999999999999"],
)  # fmt: skip
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_location(text)
