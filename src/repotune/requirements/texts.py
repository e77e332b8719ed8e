"""The sentences of the page in English and Korean; the figures are filled in.

Both carry the same figures, in digits: a test compares them.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from repotune.requirements.words import WORDS

Lang: TypeAlias = Literal["en", "ko"]

PROSE: Final[dict[str, tuple[str, str]]] = {
    "title": ("System requirements: {model}", "시스템 요구사항: {model}"),
    "contents": ("Contents", "차례"),
    "intro": (
        "What it takes to tune `{model}` ({parameters} B parameters) with LoRA on your own code. "
        "Every figure is computed by the planner that `repotune tune` asks before it starts, or "
        "stands in a table with its source and date. This page is made by `repotune "
        "requirements`, for another model with `--model ID`. For your own tree and machine: "
        "`repotune plan PATH` and `repotune doctor`.",
        "`{model}` 모델(파라미터 {parameters} B)을 내 코드로 LoRA 튜닝하는 데 필요한 것입니다. "
        "모든 수치는 `repotune tune`이 시작 전에 쓰는 계획기가 계산했거나, 출처와 날짜가 적힌 "
        "표에서 왔습니다. 이 문서는 `repotune requirements`가 만들며, 다른 모델은 `--model ID`로 "
        "볼 수 있습니다. 내 코드와 내 컴퓨터에 대한 답은 `repotune plan PATH`와 `repotune "
        "doctor`가 줍니다.",
    ),
    "read": (
        "How to read: the expected value, then (low–high). Hours are all of a run: loading, one "
        "epoch over all tokens, the evaluation of held-out files; {files} files are {files} × "
        "{tokens} tokens, the mean of real code, and the hours grow with the tokens. GPU memory is "
        "what the device shows: tensors and the CUDA context. Rates come from data sheets, so the "
        "true time may be {spread} times shorter or longer; `repotune calibrate` narrows it.",
        "읽는 법: 예상값 다음의 괄호가 (하한–상한)입니다. 시간은 실행 전체, 곧 모델 불러오기, 모든 "
        "토큰에 대한 한 에폭 학습, 평가용 파일의 채점을 더한 것입니다. 파일 {files}개는 실제 "
        "코드의 평균인 {tokens} 토큰 × {files}이며, 시간은 토큰 수에 비례합니다. GPU 메모리는 "
        "장치에 표시되는 값(텐서와 CUDA 컨텍스트)입니다. 속도는 데이터 시트에서 추정하므로 실제 "
        "시간은 {spread}배 짧거나 길 수 있고, `repotune calibrate`가 그 폭을 좁힙니다.",
    ),
    "old": (
        "“Old page” is the hand-written page that this one replaces. Where a figure differs, both "
        "stand here with the reason; what differs by less than 5 % is taken for rounding. It "
        "writes GB where it means GiB.",
        "“기존 안내”는 이 문서가 대신하는, 손으로 쓴 요구사항 문서입니다. 수치가 다르면 두 값과 "
        "이유를 함께 적었고, 5 % 미만의 차이는 반올림으로 봅니다. 기존 안내의 GB는 GiB를 "
        "뜻합니다.",
    ),
    "no_old": (
        "The old page is about CodeLlama 7B; for this model only its clouds and its software are "
        "compared.",
        "기존 안내는 CodeLlama 7B에 대한 것이므로, 이 모델에서는 클라우드와 소프트웨어만 "
        "비교합니다.",
    ),
    "dates": (
        "As of: GPUs {gpus}, models {models}, cloud offers {clouds}. Memory terms checked on: "
        "{measured}.",
        "기준일: GPU {gpus}, 모델 {models}, 클라우드 {clouds}. 메모리 식을 확인한 환경: "
        "{measured}.",
    ),
    "summary": ("Summary", "요약"),
    "sum_smallest": (
        "**GPU**: cards from {gb} GB can do it, such as {names}. Recommended {recommended} GB, "
        "best {best} GB.",
        "**GPU**: {gb} GB 카드부터 됩니다(예: {names}). 권장은 {recommended} GB, 최적은 "
        "{best} GB입니다.",
    ),
    "sum_nowhere": (
        "**GPU**: no known card can do it with every setting of the three tiers; see below.",
        "**GPU**: 세 단계의 설정을 모두 만족하는 카드가 표에 없습니다. 아래를 보세요.",
    ),
    "sum_old": (
        "**Not impossible**: {names}, which the old page rules out.",
        "**불가능하지 않음**: 기존 안내가 안 된다고 한 {names}.",
    ),
    "sum_smaller": (
        "**{gb} GB cards** ({gpu}) are too small for it: the largest known code model that fits "
        "there is `{model}`, in {hours}.",
        "**{gb} GB 카드**({gpu})에는 들어가지 않습니다. 표에서 들어가는 가장 큰 코드 모델은 "
        "`{model}`, 시간은 {hours}입니다.",
    ),
    "sum_time": (
        "**Time** for {files} files: {gpu} {hours}, {fast} {fast_hours}.",
        "**시간**(파일 {files}개): {gpu} {hours}, {fast} {fast_hours}.",
    ),
    "sum_ram": (
        "**RAM**: the run takes {ram} GiB; {least} GiB must be free.",
        "**RAM**: 실행이 쓰는 양은 {ram} GiB이고, {least} GiB가 비어 있어야 합니다.",
    ),
    "sum_ram_alone": (
        "**RAM**: the run takes {ram} GiB.",
        "**RAM**: 실행이 쓰는 양은 {ram} GiB입니다.",
    ),
    "sum_disk": (
        "**Disk**: {disk} GiB for the first run, of which {download} are the model.",
        "**디스크**: 첫 실행에 {disk} GiB이고, 그중 모델이 {download}입니다.",
    ),
    "sum_software": (
        "**Software**: Python {python_low} to {python_high}, PyTorch {torch_low} to {torch_high}.",
        "**소프트웨어**: Python {python_low}–{python_high}, PyTorch {torch_low}–{torch_high}.",
    ),
    "sum_cpu": (
        "**Without a GPU**: {hours} on a CPU of {cores} cores. Rather a free cloud GPU, or the "
        "small model `{starter}`.",
        "**GPU가 없다면**: {cores}코어 CPU로 {hours}. 무료 클라우드 GPU나 작은 모델"
        "(`{starter}`)이 낫습니다.",
    ),
    "sum_cpu_not": (
        "**Without a GPU**: it does not fit into {ram} GiB of RAM. Rather a cloud GPU, or the "
        "small model `{starter}`.",
        "**GPU가 없다면**: RAM {ram} GiB에 들어가지 않습니다. 클라우드 GPU나 작은 모델"
        "(`{starter}`)이 낫습니다.",
    ),
    "sum_free_one": (
        "**Free**: {offer} does {files} files in one session.",
        "**무료**: {offer}에서 파일 {files}개를 세션 하나에 마칩니다.",
    ),
    "sum_free": (
        "**Free**: {offer} does {files} files in {sessions} sessions.",
        "**무료**: {offer}에서 파일 {files}개를 {sessions}개 세션에 마칩니다.",
    ),
    "tiers": ("Three tiers", "세 단계"),
    "tiers_lead": (
        "A tier is a promise, and its GPU memory is that of the smallest card which keeps it.",
        "단계마다 뜻이 정해져 있고, GPU 메모리는 그 뜻을 지킬 수 있는 가장 작은 카드의 용량입니다.",
    ),
    "mean_minimum": ("the job fits", "작업이 메모리에 들어감"),
    "mean_recommended": (
        "nothing is computed twice, weights in 4 bits",
        "4비트 가중치, 두 번 계산하는 것이 없음",
    ),
    "mean_best": (
        "nothing is computed twice, weights in 16 bits",
        "16비트 가중치, 두 번 계산하는 것이 없음",
    ),
    "tier_cards": ("{gb} GB: {names}", "{gb} GB: {names}"),
    "disk_title": ("Disk by item", "항목별 디스크"),
    "disk_note": (
        "For {files} files and one run; for {most} files it is {largest} GiB. An SSD loads the "
        "model quicker; nothing else waits for it.",
        "파일 {files}개, 한 번 실행 기준입니다. 파일 {most}개라면 {largest} GiB입니다. SSD는 "
        "모델을 더 빨리 불러올 뿐, 그 밖에는 차이가 없습니다.",
    ),
    "cpu_note": (
        "CPU: with a GPU it reads the tree and feeds the GPU. A low number of cores makes only the "
        "reading slower.",
        "CPU: GPU가 있으면 CPU는 코드를 읽고 GPU에 일을 넘기기만 합니다. 코어가 적으면 읽는 시간만 "
        "늘어납니다.",
    ),
    "compared": ("Beside the old page", "기존 안내와 비교"),
    "gpus": ("Every GPU: verdict, preset, time", "GPU별 판정, 프리셋, 시간"),
    "gpus_lead": (
        "Settings are those that `repotune tune` takes on the card: the old page's preset where it "
        "has one, else the longest rows that fit, then the largest batch that costs no speed, "
        "with 16 rows a step. A run uses at most {usable} % of what is free, and half of the free "
        "RAM, for which {host} GiB are assumed, those of a computer with 16 GB. Hours are for "
        "{files} files; where nothing fits, the settings of the minimum are shown.",
        "설정은 `repotune tune`이 그 카드에서 고르는 것입니다. 기존 안내에 프리셋이 있으면 그것을, "
        "없으면 들어가는 가장 긴 행, 그다음 속도를 잃지 않는 가장 큰 배치를 고르고 스텝당 행은 "
        "16개로 둡니다. 빈 GPU 메모리의 {usable} %까지, 빈 RAM의 절반까지 쓰며, 빈 RAM은 16 GB "
        "컴퓨터처럼 {host} GiB로 보았습니다. 시간은 파일 {files}개 기준이고, 들어가지 않는 "
        "카드에는 최소 단계의 설정을 적었습니다.",
    ),
    "old_build": (
        "PyTorch supports these with its build for CUDA {cuda} only, up to PyTorch {torch}: "
        "{names}.",
        "다음 카드는 PyTorch {torch}까지의 CUDA {cuda}용 빌드에서만 지원됩니다: {names}.",
    ),
    "no_bf16": (
        "Cards without bf16 compute in fp16 with loss scaling and were not run yet: {names}.",
        "bf16이 없는 카드는 손실 스케일링을 적용한 fp16으로 계산하며 아직 실제로 실행해 보지 "
        "않았습니다: {names}.",
    ),
    "settings": ("GPU memory by settings", "설정별 GPU 메모리"),
    "settings_lead": (
        "Weights in 4 bits, LoRA of rank {rank}, in GiB, by what each layer saves for the backward "
        "pass. The planner saves as much as the card allows, layer by layer, so that a larger card "
        "is used in full and a smaller one still does it. The CUDA context is counted as on an "
        "{reference}, {context} GiB; it is {low} to {high} on other cards.",
        "4비트 가중치, LoRA 랭크 {rank}, 단위 GiB이며, 각 층이 역전파를 위해 무엇을 저장하느냐에 "
        "따라 나눴습니다. 계획기는 카드가 허락하는 만큼 층마다 많이 저장하므로, 큰 카드는 다 쓰고 "
        "작은 카드에서도 동작합니다. CUDA 컨텍스트는 {reference} 기준으로 {context} GiB를 "
        "더했고, 다른 카드에서는 {low}–{high}입니다.",
    ),
    "settings_plain": (
        "Beside it, what transformers, peft and bitsandbytes need with checkpointing, and the "
        "smallest card on which the planner runs the setting.",
        "비교를 위해 transformers, peft, bitsandbytes가 체크포인팅을 켜고 쓰는 메모리와, "
        "계획기가 그 설정을 실행할 수 있는 가장 작은 카드를 함께 적었습니다.",
    ),
    "times": ("Time by number of files", "파일 수별 시간"),
    "times_lead": (
        "With each card's preset, all of a run.",
        "카드별 프리셋으로, 실행 전체에 걸리는 시간입니다.",
    ),
    "cpu_title": ("A CPU alone", "CPU만으로"),
    "cpu_lead": (
        "{verdict} {files} files take {hours} on {cores} cores, {times} times as long as on an "
        "{fast}, and {ram} GiB of RAM, since 4-bit weights are for GPUs. With bf16 units (AMX, "
        "AVX-512) it is {hours_bf16}. The small model `{starter}` takes {starter_hours} there.",
        "{verdict} {cores}코어에서 파일 {files}개에 {hours} 걸려 {fast}의 {times}배이고, 4비트 "
        "가중치는 GPU에서만 쓰므로 RAM이 {ram} GiB 필요합니다. bf16 연산기(AMX, AVX-512)가 있으면 "
        "{hours_bf16}입니다. 작은 모델(`{starter}`)은 같은 CPU에서 {starter_hours}입니다.",
    ),
    "cpu_not": (
        "Impossible on a computer with {ram} GiB of RAM: the weights alone need more, {need} GiB "
        "in all. The small model `{starter}` takes {starter_hours} on {cores} cores.",
        "RAM {ram} GiB로는 불가능합니다. 가중치만으로도 넘쳐 모두 {need} GiB가 필요합니다. 작은 "
        "모델(`{starter}`)은 {cores}코어에서 {starter_hours}입니다.",
    ),
    "cpu_slow": (
        "Possible, not sensible:",
        "가능은 하지만 현실적이지 않습니다.",
    ),
    "cpu_able": ("Possible:", "가능합니다."),
    "cpu_instead": (
        "Instead: a free notebook or a rented GPU (see Cloud), or a card from {gb} GB on.",
        "대안: 무료 노트북이나 빌린 GPU(클라우드 참고), 또는 {gb} GB 이상의 카드.",
    ),
    "memory": ("Out of memory", "메모리가 부족할 때"),
    "memory_lead": (
        "`repotune tune` plans before it loads anything, so a run does not stop for lack of memory "
        "half-way. Time is that of a token relative to the first row of its table, at an "
        "{reference}'s rates.",
        "`repotune tune`은 모델을 불러오기 전에 계획하므로 도중에 메모리 부족으로 멈추지 않습니다. "
        "시간은 각 표 첫 행에 대한 토큰당 시간의 비율이며 {reference}의 속도로 계산했습니다.",
    ),
    "by_itself": ("1. By itself, changing no result", "1. 프로그램이 스스로: 결과는 그대로"),
    "by_itself_lead": (
        "At {settings}, a layer at a time and only as far as needed. Up to half of the free host "
        "memory is used.",
        "설정 {settings} 기준이며, 필요한 만큼만 한 층씩 적용합니다. 호스트 메모리는 빈 공간의 "
        "절반까지 씁니다.",
    ),
    "proposed": ("2. Proposed, when that is not enough", "2. 그래도 부족하면 제안하는 것"),
    "proposed_lead": (
        "`repotune plan` names the first of these that fits. Each row has those before it, and "
        "the least that the first table can do. A smaller batch changes no result, 4-bit weights "
        "and shorter rows do.",
        "`repotune plan`이 이 가운데 처음으로 들어가는 것을 알려 줍니다. 각 행은 앞의 행들을 "
        "포함하고, 첫째 표의 가장 적은 메모리로 계산했습니다. 작은 배치는 결과를 바꾸지 않지만, "
        "4비트 가중치와 짧은 행은 바꿉니다.",
    ),
    "last_resort": (
        "Last: a smaller model. On {gpu} ({gb} GB) `{model}` fits.",
        "마지막: 더 작은 모델. {gpu}({gb} GB)에 들어가는 것은 `{model}`입니다.",
    ),
    "old_remedies": ("3. The old page's four remedies", "3. 기존 안내의 네 가지 해결책"),
    "old_batch": (
        "`batch_size` 4 → 1 with `gradient_accumulation_steps` 4 → 16: saves {saved} GiB at the "
        "least level, time × {time}.",
        "`batch_size` 4 → 1, `gradient_accumulation_steps` 4 → 16: 가장 적게 저장할 때 {saved} GiB "
        "절약, 시간 × {time}.",
    ),
    "old_length": (
        "`max_seq_length` 2048 → 1024: saves {saved} GiB more at batch 1, and the model sees half "
        "as much of a file at once.",
        "`max_seq_length` 2048 → 1024: 배치 1에서 {saved} GiB 더 절약하지만, 모델이 파일을 한 번에 "
        "절반만 봅니다.",
    ),
    "old_rank": (
        "`lora_r` 16 → {rank}: saves {saved} GiB; never proposed, since the adapter learns less "
        "for it.",
        "`lora_r` 16 → {rank}: {saved} GiB 절약. 어댑터의 학습 능력이 줄어드는 데 비해 적으므로 "
        "제안하지 않습니다.",
    ),
    "old_checkpointing": (
        "`gradient_checkpointing = true`: the default, and that is the first table; `false` asks "
        "for {whole} GiB at {settings}.",
        "`gradient_checkpointing = true`: 기본값이며 첫째 표가 그 내용입니다. `false`라면 설정 "
        "{settings}에 {whole} GiB가 필요합니다.",
    ),
    "clouds": ("Cloud", "클라우드"),
    "clouds_lead": (
        "**Prices and limits change** and differ by region: each is as its source said on its "
        "date. Time and money are for {files} files, with the settings that suit the GPU. A lost "
        "session is resumed with `repotune tune --resume RUN`.",
        "**가격과 제한은 바뀌며** 지역에 따라 다릅니다. 각 값은 표시한 날짜에 출처가 밝힌 "
        "것입니다. 시간과 비용은 파일 {files}개를 그 GPU에 맞는 설정으로 학습할 때입니다. 세션이 "
        "끊기면 `repotune tune --resume RUN`으로 이어서 합니다.",
    ),
    "software": ("Software", "소프트웨어"),
    "software_driver": (
        "{tag} (CUDA {cuda}): driver {driver} or newer, compute capability {low} to {high}",
        "{tag}(CUDA {cuda}): 드라이버 {driver} 이상, 컴퓨트 능력 {low}–{high}",
    ),
    "versions": ("{low} to {high}", "{low}–{high}"),
    "software_cudnn": ("comes with PyTorch", "PyTorch에 포함"),
    "software_bnb": ("not needed", "필요 없음"),
    "driver": ("NVIDIA driver", "NVIDIA 드라이버"),
    "software_check": (
        "Check a machine, line by line, with one command for what fails:",
        "항목별로 컴퓨터를 확인하고, 안 되는 것은 고치는 명령을 하나씩 알려 줍니다:",
    ),
    "sources": ("Sources", "출처"),
    "source_model": ("model", "모델"),
    "source_gpus": ("GPUs", "GPU"),
    "source_engine": ("memory terms", "메모리 식"),
    "made": (
        "Made by `repotune requirements`; do not edit, run `make docs`.",
        "`repotune requirements`가 만든 문서입니다. 고치지 말고 `make docs`를 실행하세요.",
    ),
    "other": ("[한국어](requirements.ko.md)", "[English](requirements.md)"),
}  # fmt: skip


def say(lang: Lang, key: str, **values: str | int | float) -> str:
    """The text ``key`` with its figures."""
    texts = WORDS.get(key) or PROSE[key]
    return texts[0 if lang == "en" else 1].format(**values)
