"""The figures: those of the planner, in its order, on the cards that there are."""

from dataclasses import replace
from itertools import pairwise

import pytest

from repotune.config import FineTuningConfig
from repotune.errors import DoesNotFit
from repotune.planning import gpu_target
from repotune.planning.fit import fit, nearest, setup_of
from repotune.planning.policy import choose_policy
from repotune.requirements.remedies import LEVEL_POLICY, START
from repotune.tables import find_gpu, gpus, known_model

from .pages import CODELLAMA, figures

MODEL = known_model(CODELLAMA)
GIB = 2**30


@pytest.fixture(scope="module")
def page():
    return figures()


def row(page, gpu):
    return next(row for row in page.gpus if row.gpu.name == gpu)


def test_the_cards_that_the_old_page_rules_out_fit(page):
    for name in ("RTX 3060 Ti", "RTX 4060"):
        assert row(page, name).gpu.memory_gb == 8
        assert row(page, name).verdict == "fits"
        assert row(page, name).vram_gib.high < row(page, name).available_gib
    assert row(page, "RTX 2060 6GB").verdict == "tight"


def test_every_known_gpu_has_a_row(page):
    assert [one.gpu for one in page.gpus] == list(gpus())


def test_the_old_pages_presets_are_exact(page):
    wanted = {
        "RTX 3060": (1, 16, 1024, True),
        "RTX 4060 Ti 16GB": (2, 8, 1536, True),
        "RTX 3090": (4, 4, 2048, True),
        "RTX 4090": (4, 4, 2048, True),
        "A100 PCIe 40GB": (8, 2, 2048, False),
        "A100 SXM4 80GB": (8, 2, 2048, False),
    }
    for name, values in wanted.items():
        one = row(page, name).settings
        got = one.batch_size, one.gradient_accumulation_steps, one.max_seq_length, one.use_4bit
        assert got == values
        assert row(page, name).from_page


def test_the_smallest_card_of_a_setting_is_the_smallest(page):
    for one in page.settings:
        config = FineTuningConfig(batch_size=one.batch_size, max_seq_length=one.max_seq_length)
        able = {
            gpu.memory_gb
            for gpu in gpus()
            if fit(MODEL.shape, config, gpu_target(gpu)).verdict != "does_not_fit"
        }
        assert one.smallest_gb == min(able)


def test_the_settings_are_the_old_pages_and_one_more(page):
    settings = [(one.batch_size, one.max_seq_length) for one in page.settings]
    assert settings == [(1, 1024), (2, 1024), (1, 2048), (4, 2048), (8, 2048)]
    for one in page.settings:
        *steps, last = [peak.expected for peak in one.by_level.values()]
        assert steps == sorted(steps, reverse=True)
        # On the GPU the inputs are less than the outputs there, and more than nothing.
        assert steps[-1] < last < one.by_level["outputs"].expected


def policies(host_free_bytes):
    """What the planner takes for the page's start, from plenty of memory to too little."""
    setup = setup_of(MODEL.shape, START, gpu_target(find_gpu("RTX 3060").gpu))
    for quarters in range(240, 16, -1):
        try:
            yield choose_policy(
                setup, free_bytes=quarters * GIB // 4, gradient_checkpointing=True,
                host_free_bytes=host_free_bytes,
            )  # fmt: skip
        except DoesNotFit:
            return


def last_layers(found):
    """Each policy's first layer, which gives way first, and where Adam's moments are."""
    pairs = [(one.layers[0], one.optimizer_offloaded) for one in found]
    return list(dict.fromkeys((replace(one, expanded=False), away) for one, away in pairs))


def test_remedies_that_need_no_one_are_in_the_planners_order(page):
    assert [one.key for one in page.automatic] == list(LEVEL_POLICY)
    *with_host, without = [(one, key == "moments_host") for key, one in LEVEL_POLICY.items()]
    assert last_layers(policies(host_free_bytes=100 * GIB)) == with_host
    assert last_layers(policies(host_free_bytes=0)) == [*with_host[:3], without]


def test_remedies_that_are_proposed_are_in_the_order_of_the_proposals(page):
    """With room for a row and none for the row before it, ``nearest`` goes as far as that row, and
    in 4 bits may take a larger batch."""
    asked = START.merged({"use_4bit": False})
    target = gpu_target(find_gpu("RTX 3060").gpu)
    for before, one in pairwise(page.proposed):
        between = (before.vram_gib.expected + one.vram_gib.expected) / 2
        free = round((between * GIB - target.context.expected) / 0.92)
        found = nearest(MODEL.shape, replace(target, free_bytes=free), asked)
        assert found is not None
        changed = found[0]
        assert changed.use_4bit == one.settings.use_4bit
        assert changed.max_seq_length == one.settings.max_seq_length
        if not one.settings.use_4bit:
            assert changed.batch_size == one.settings.batch_size


def test_a_remedy_saves_what_lies_between_its_row_and_the_one_before(page):
    rows = page.proposed
    for before, one in pairwise(rows):
        assert one.saved_gib == pytest.approx(before.vram_gib.expected - one.vram_gib.expected)
        assert one.saved_gib > 0
    assert page.rank.lora_r == 8
    assert 0 < page.rank.saved_gib < 1


def test_the_old_pages_remedies_are_exact(page):
    """Batch 4 to 1 with accumulation 4 to 16, rows 2048 to 1024, rank 16 to 8."""
    assert (START.batch_size, START.gradient_accumulation_steps) == (4, 4)
    assert (START.max_seq_length, START.lora_r, START.gradient_checkpointing) == (2048, 16, True)
    batch, length = page.batch.settings, page.length.settings
    assert (batch.batch_size, batch.gradient_accumulation_steps) == (1, 16)
    assert (batch.max_seq_length, length.max_seq_length) == (2048, 1024)
    assert page.rank.lora_r == 8


def test_recomputing_takes_time_and_a_smaller_batch_little(page):
    times = [one.time for one in page.automatic]
    assert times[0] == 1
    assert times == sorted(times)
    assert 1 < times[-1] < 1.5
    assert page.batch.time == pytest.approx(1, abs=0.05)


def test_another_model_is_compared_where_the_old_page_says_the_same_of_all():
    page = figures("Qwen/Qwen2.5-Coder-1.5B")
    assert {one.claim.topic for one in page.comparisons} == {"cloud", "software"}
    assert not any(one.from_page for one in page.gpus)
    assert page.tiers[0].gpu_gb == 6


def test_a_model_that_no_processor_can_hold_has_no_hours_there():
    page = figures("Qwen/Qwen2.5-Coder-32B")
    assert page.cpu.hours is None
    assert page.cpu.verdict == "does_not_fit"
    assert page.tiers[0].gpu_gb == 24
