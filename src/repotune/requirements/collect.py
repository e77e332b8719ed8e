"""All figures of the page, from the planner and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from repotune.config import FineTuningConfig
from repotune.machine.fixes import BUILDS, best_build
from repotune.machine.judge import PYTHON, TORCH
from repotune.machine.needs import GPU_RAM_BYTES
from repotune.planning import (
    PlainRun,
    gpu_target,
    machine_target,
    offer_costs,
    parameters,
    plain_stack_peak,
    plan,
    smaller_model,
    suited_config,
)
from repotune.planning.claims import (
    DESKTOP,
    TOKENS_PER_FILE,
    agrees,
    our_figure,
    our_verdict,
    workload,
)
from repotune.planning.claims import LEVELS as TIERS
from repotune.planning.fit import fit, lora_of, peak_of, setup_of
from repotune.planning.memory import MEASURED
from repotune.planning.policy import GIB
from repotune.planning.target import Target
from repotune.records import Gpu, KnownModel, OfferCost, PageClaim, Plan, Range, Shape
from repotune.requirements.figures import (
    Build,
    Comparison,
    CpuFigures,
    GpuRow,
    Requirements,
    SettingRow,
    Settings,
    SmallerModel,
    Software,
    Source,
    Tier,
    TierFigures,
    TimeRow,
)
from repotune.requirements.remedies import LEVEL_POLICY, Ladder, uniform
from repotune.tables import clouds, find_gpu, find_preset, gpus, known_model, models, page_claims
from repotune.tables import presets as all_presets

PAGE_MODEL: Final = "codellama/CodeLlama-7b-"
"""The old page is about this model."""
FILES: Final = 10_000
REFERENCE: Final = "RTX 3060"
"""The card whose context and rates stand for all in the tables of settings and remedies: the
smallest that the old page allows."""
FAST: Final = "RTX 4090"
TREES: Final = (1_000, 10_000, 50_000, 100_000)
TIMED: Final = (
    "RTX 3060", "RTX 3060 Ti", "RTX 4060", "RTX 4060 Ti 16GB", "RTX 4070", "RTX 3090", "RTX 4090",
    "RTX 5090", "T4", "L4", "A100 SXM4 80GB", "H100 SXM5",
)  # fmt: skip
SETTINGS: Final = ((1, 1024), (2, 1024), (1, 2048), (4, 2048), (8, 2048))
ANY_MODEL: Final = ("cloud", "software")
"""Topics of which the old page says the same whatever the model."""
STARTER: Final = "starter"


def collect(model: str, shape: Shape, download_bytes: int) -> Requirements:
    """Every figure of the page for a model, by its shape alone."""
    asker = _Asker(model, shape, download_bytes)
    reference = gpu_target(_gpu(REFERENCE))
    ladder = Ladder(shape, reference)
    usual = asker.on(gpu_target(_gpu(FAST)), FineTuningConfig(), FILES)
    largest = asker.on(gpu_target(_gpu(FAST)), FineTuningConfig(), TREES[-1])
    contexts = [gpu_target(gpu).context.expected / GIB for gpu in gpus()]
    rows = tuple(asker.gpu_row(gpu) for gpu in gpus())
    return Requirements(
        model=model,
        parameters=parameters(shape),
        tokens_per_file=TOKENS_PER_FILE,
        files=FILES,
        reference=REFERENCE,
        context_gib=Range(
            low=min(contexts), expected=reference.context.expected / GIB, high=max(contexts)
        ),
        least_free_ram_gib=GPU_RAM_BYTES / GIB,
        tiers=tuple(asker.tier(tier) for tier in ("minimum", "recommended", "best")),
        disk_gib=usual.disk_gib,
        disk_largest_gib=largest.disk_gib["total"],
        gpus=rows,
        settings=tuple(_setting(shape, *each, reference) for each in SETTINGS),
        times=tuple(asker.times(_gpu(name)) for name in TIMED),
        cpu=asker.cpu(next(row for row in rows if row.gpu.name == FAST)),
        automatic=ladder.automatic(),
        proposed=ladder.proposed(),
        batch=ladder.batch(),
        length=ladder.length(),
        rank=ladder.rank(),
        smaller=_smaller(shape),
        offers=asker.offers(),
        software=_software(),
        comparisons=_comparisons(model),
        sources=_sources(model),
        newest={
            "gpus": max(gpu.date for gpu in gpus()),
            "clouds": max(offer.date for offer in clouds()),
            "models": max(known.date for known in models()),
        },
        measured=MEASURED,
    )


class _Asker:
    """Asks the planner about one model."""

    def __init__(self, model: str, shape: Shape, download_bytes: int) -> None:
        self._model, self._shape, self._download = model, shape, download_bytes

    def on(self, target: Target, config: FineTuningConfig, files: int) -> Plan:
        """A plan for so many files."""
        return plan(
            model=self._model,
            shape=self._shape,
            download_bytes=self._download,
            target=target,
            config=config,
            workload=workload(files),
        )

    def gpu_row(self, gpu: Gpu) -> GpuRow:
        """A GPU with the settings of ``tune``."""
        preset = find_preset(gpu.name) if self._model.startswith(PAGE_MODEL) else None
        made = self.on(gpu_target(gpu), self._config(gpu), FILES)
        if made.verdict == "does_not_fit":
            made = self.on(gpu_target(gpu), TIERS["minimum"], FILES)
        return GpuRow(
            gpu=gpu,
            verdict=made.verdict,
            settings=_settings(made),
            from_page=preset is not None and preset.from_page,
            vram_gib=made.peak_vram_gib,
            available_gib=made.memory_gib,
            host_ram_gib=made.host_ram_gib,
            hours=_hours(made),
            old_build=best_build(gpu.compute_capability, None) != BUILDS[0],
        )

    def times(self, gpu: Gpu) -> TimeRow:
        """Hours by number of files."""
        config = self._config(gpu)
        plans = [self.on(gpu_target(gpu), config, files) for files in TREES]
        return TimeRow(
            device=gpu.name,
            settings=_settings(plans[0]),
            hours={files: one.hours for files, one in zip(TREES, plans, strict=True)},
        )

    def tier(self, tier: Tier) -> TierFigures:
        """The smallest card on which the tier's settings fit."""
        config = TIERS[tier]
        smallest = _smallest(self._shape, config)
        same = [gpu for gpu in gpus() if gpu.memory_gb == smallest]
        cards = [gpu for gpu in same if _fits(self._shape, config, gpu)]
        kept = [gpu for gpu in cards if gpu.kind in ("desktop", "workstation")] or cards
        made = self.on(gpu_target(kept[0] if kept else _gpu(REFERENCE)), config, FILES)
        return TierFigures(
            tier=tier,
            settings=_settings(made),
            gpu_gb=smallest,
            gpus=tuple(gpu.name for gpu in kept),
            vram_gib=made.peak_vram_gib,
            host_ram_gib=made.host_ram_gib,
            hours=made.hours,
        )

    def cpu(self, fast: GpuRow) -> CpuFigures:
        """The same job on the claims' desktop, and the small model's."""
        plain = self.on(machine_target(DESKTOP, None, None), FineTuningConfig(), FILES)
        bf16 = self.on(
            machine_target(replace(DESKTOP, bf16=True), None, None), FineTuningConfig(), FILES
        )
        small = known_model(STARTER)
        assert small is not None
        starter = _Asker(STARTER, small.shape, 0)
        return CpuFigures(
            cores=DESKTOP.cores,
            ram_gib=DESKTOP.ram_bytes / GIB,
            verdict=plain.verdict,
            host_ram_gib=plain.host_ram_gib,
            hours=_hours(plain),
            hours_bf16=_hours(bf16),
            compared_with=fast.gpu.name,
            times_slower=plain.hours.expected / fast.hours.expected if fast.hours else 0.0,
            starter=STARTER,
            starter_hours=starter.on(
                machine_target(DESKTOP, None, None), FineTuningConfig(), FILES
            ).hours,
        )

    def offers(self) -> tuple[OfferCost, ...]:
        """The job on each cloud offer."""
        pairs = [(offer, find_gpu(offer.gpu).gpu) for offer in clouds()]
        return offer_costs(
            pairs, model=self._model, shape=self._shape, config=None, workload=workload(FILES)
        )

    def _config(self, gpu: Gpu) -> FineTuningConfig:
        return suited_config(self._model, self._shape, gpu_target(gpu), FineTuningConfig())


def _setting(shape: Shape, batch_size: int, length: int, target: Target) -> SettingRow:
    config = FineTuningConfig(batch_size=batch_size, max_seq_length=length)
    setup = setup_of(shape, config, target)
    run = PlainRun(tokens=setup.tokens, use_4bit=True, gradient_checkpointing=True)
    plain = plain_stack_peak(shape, lora_of(config), run)
    return SettingRow(
        batch_size=batch_size,
        max_seq_length=length,
        by_level={
            level: peak_of(setup, uniform(level, shape), target.context) for level in LEVEL_POLICY
        },
        plain_stack_gib=(plain + target.context.expected) / GIB,
        smallest_gb=_smallest(shape, config),
    )


def _smaller(shape: Shape) -> SmallerModel | None:
    """What fits on the smallest card of the table."""
    gpu = min((gpu for gpu in gpus() if gpu.kind == "desktop"), key=lambda gpu: gpu.memory_gb)
    found = smaller_model(shape, gpu_target(gpu), FineTuningConfig())
    if found is None:
        return None
    one, config = found
    made = _Asker(one.name, one.shape, one.download_bytes).on(gpu_target(gpu), config, FILES)
    return SmallerModel(gpu=gpu.name, memory_gb=gpu.memory_gb, model=one.name, hours=made.hours)


def _comparisons(model: str) -> tuple[Comparison, ...]:
    theirs = model.startswith(PAGE_MODEL)
    known = known_model(model) if theirs else known_model(f"{PAGE_MODEL}hf")
    assert known is not None
    claims = [claim for claim in page_claims() if theirs or claim.topic in ANY_MODEL]
    return tuple(_compared(claim, known) for claim in claims)


def _compared(claim: PageClaim, model: KnownModel) -> Comparison:
    verdict = our_verdict(claim, model, gpus=gpus(), presets=all_presets())
    ours = our_figure(claim, model, gpus=gpus(), presets=all_presets(), offers=clouds())
    if verdict is not None:
        same = verdict == claim.says
    else:
        same = ours is not None and agrees(claim, ours)
    return Comparison(claim=claim, ours=ours, verdict=verdict, agrees=same)


def _software() -> Software:
    def dotted(version: Sequence[int]) -> str:
        return ".".join(map(str, version))

    return Software(
        python=(dotted(PYTHON[0]), dotted(PYTHON[1])),
        pytorch=(dotted(TORCH[0]), dotted(TORCH[1])),
        builds=tuple(
            Build(
                tag=build.tag,
                cuda=dotted(build.cuda),
                driver=build.driver,
                capabilities=(dotted(build.lowest), dotted(build.highest)),
            )
            for build in BUILDS
        ),
    )


def _sources(model: str) -> tuple[Source, ...]:
    known = known_model(model)
    found = [] if known is None else [Source(of="model", title=known.source, date=known.date)]
    sheets = dict.fromkeys((gpu.source, gpu.date) for gpu in gpus())
    return (*found, *(Source(of="gpus", title=title, date=date) for title, date in sheets))


def _fits(shape: Shape, config: FineTuningConfig, gpu: Gpu) -> bool:
    return fit(shape, config, gpu_target(gpu)).verdict != "does_not_fit"


def _smallest(shape: Shape, config: FineTuningConfig) -> int | None:
    """GB of the smallest card on which ``config`` fits."""
    by_memory = sorted(gpus(), key=lambda gpu: gpu.memory_gb)
    return next((gpu.memory_gb for gpu in by_memory if _fits(shape, config, gpu)), None)


def _hours(made: Plan) -> Range | None:
    """Of the settings that were planned, not of the nearest that fit."""
    return None if made.verdict == "does_not_fit" else made.hours


def _settings(made: Plan) -> Settings:
    names = ("batch_size", "gradient_accumulation_steps", "max_seq_length", "use_4bit")
    return Settings(**{name: made.config[name] for name in names})


def _gpu(name: str) -> Gpu:
    return find_gpu(name).gpu
