"""The same job on rented GPUs."""

import pytest

from repotune.config import FineTuningConfig
from repotune.planning import Workload, gpu_target, offer_costs, plan, suited_config
from repotune.records import Range
from repotune.tables import clouds, find_gpu, known_model

from .setups import CODELLAMA

CODE = Workload(files=1000, tokens=Range(low=3.5e6, expected=3.9e6, high=4.2e6), note="Given.")
OFFERS = [(one, find_gpu(one.gpu).gpu) for one in clouds()]


def costs(model=CODELLAMA, config=None):
    return offer_costs(OFFERS, model=model.name, shape=model.shape, config=config, workload=CODE)


def test_each_offer_is_planned_on_its_own_gpu():
    found = costs()
    assert [cost.offer for cost in found] == list(clouds())
    by_gpu = {cost.offer.gpu: cost.hours.expected for cost in found}
    assert by_gpu["H100 PCIe"] < by_gpu["A10G"] < by_gpu["T4"] < by_gpu["P100 PCIe"]
    assert all(cost.money.expected == 0 for cost in found if cost.offer.free)
    assert {cost.model for cost in found} == {CODELLAMA.name}


@pytest.mark.parametrize("name", ["T4", "A100 SXM4 40GB"])
def test_it_is_the_plan_that_a_user_of_that_gpu_gets(name):
    target = gpu_target(find_gpu(name).gpu)
    config = suited_config(CODELLAMA.name, CODELLAMA.shape, target, FineTuningConfig())
    theirs = plan(
        model=CODELLAMA.name, shape=CODELLAMA.shape, download_bytes=0, target=target,
        config=config, workload=CODE,
    )  # fmt: skip
    ours = next(cost for cost in costs() if cost.offer.gpu == name)
    assert (ours.verdict, ours.hours) == (theirs.verdict, theirs.hours)


def test_settings_that_a_user_chose_are_kept_where_they_fit_and_give_way_where_not():
    asked = FineTuningConfig(batch_size=16, max_seq_length=2048, use_4bit=False, num_train_epochs=2)
    found = {cost.offer.gpu: cost for cost in costs(config=asked)}
    target = gpu_target(find_gpu("A100 SXM4 80GB").gpu)
    theirs = plan(
        model=CODELLAMA.name, shape=CODELLAMA.shape, download_bytes=0, target=target,
        config=asked, workload=CODE,
    )  # fmt: skip
    assert theirs.verdict == "fits"
    assert found["A100 SXM4 80GB"].hours == theirs.hours
    assert found["T4"].verdict != "does_not_fit"
    assert found["T4"].hours.expected > 0


def test_what_fits_nowhere_on_a_card_takes_no_hours_there():
    found = {c.offer.gpu: c for c in costs(known_model("Qwen/Qwen2.5-Coder-32B"))}
    assert (found["T4"].verdict, found["T4"].hours.high) == ("does_not_fit", 0)
    assert found["A100 SXM4 80GB"].verdict != "does_not_fit"
