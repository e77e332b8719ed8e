"""What ``doctor`` says, in English and Korean; the facts themselves need no translation."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Lang: TypeAlias = Literal["en", "ko"]

TEXTS: Final[dict[str, tuple[str, str]]] = {
    # names of the lines
    "system": ("System", "운영체제"),
    "cpu": ("CPU", "CPU"),
    "python": ("Python", "Python"),
    "torch": ("PyTorch", "PyTorch"),
    "cuda": ("PyTorch's CUDA", "PyTorch의 CUDA"),
    "driver": ("NVIDIA driver", "NVIDIA 드라이버"),
    "cudnn": ("cuDNN", "cuDNN"),
    "gpu": ("GPU", "GPU"),
    "vram": ("VRAM", "VRAM"),
    "bf16": ("bf16", "bf16"),
    "ram": ("RAM", "RAM"),
    "disk_models": ("Disk: models", "디스크: 모델"),
    "disk_cache": ("Disk: 4-bit", "디스크: 4비트"),
    "disk_runs": ("Disk: runs", "디스크: 실행"),
    "goes_models": ("the model", "모델"),
    "goes_cache": ("its weights in 4 bits", "4비트 가중치"),
    "goes_runs": ("the run", "실행"),
    "model": ("Model", "모델"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "triton": ("Triton", "Triton"),
    "layer": ("4-bit layer", "4비트 계층"),
    # the table
    "col_check": ("Check", "항목"),
    "col_found": ("Found", "현재"),
    "col_needed": ("Needed", "필요"),
    "col_page": ("Page: min / rec. / best", "안내: 최소 / 권장 / 최적"),
    "col_finding": ("Finding", "판정"),
    "ok": ("ok", "정상"),
    "tight": ("tight", "빠듯함"),
    "missing": ("missing", "부족"),
    "note": ("note", "참고"),
    # values
    "none": ("none", "없음"),
    "not_needed": ("not needed", "필요 없음"),
    "cores": ("{cpu}, {cores} cores", "{cpu}, {cores}코어"),
    "page_cores": ("{cores} cores", "{cores}코어"),
    "free_of": ("{free} GiB free of {total} GiB", "{total} GiB 중 {free} GiB 여유"),
    "free_at": ("{free} GB free ({kind}) at {path}", "{path}: {free} GB 여유 ({kind})"),
    "same_drive": ("{path}, as “{first}”", "{path}, “{first}”와 같은 드라이브"),
    "ssd": ("SSD", "SSD"),
    "spinning": ("spinning disk", "하드 디스크"),
    "unknown": ("kind unknown", "종류 알 수 없음"),
    "cpu_build": ("none: a CPU build", "없음: CPU 전용 빌드"),
    "yes": ("yes", "지원"),
    "no": ("no", "미지원"),
    "yes_cpu": ("yes, on the CPU", "CPU에서 지원"),
    "no_cpu": ("no, fp32 is faster on this CPU", "이 CPU에서는 fp32가 더 빠름"),
    "capability": ("{gpu}, compute capability {cc}", "{gpu}, 컴퓨트 능력 {cc}"),
    "model_here": ("{model}, on this disk", "{model}, 이 디스크에 있음"),
    "model_download": ("{model}, {size} GB to download", "{model}, {size} GB 내려받아야 함"),
    "layer_ran": (
        "forward and backward in {ms} ms, as on the CPU",
        "순전파와 역전파 {ms} ms, CPU 결과와 일치",
    ),
    "layer_failed": ("failed", "실패"),
    # reasons
    "macos": (
        "PyTorch has no CUDA on macOS: the starter model trains on the CPU.",
        "macOS의 PyTorch에는 CUDA가 없습니다. 시작 모델을 CPU로 학습합니다.",
    ),
    "few_cores": (
        "It works with {cores} cores; reading a large tree and training on the CPU are slow.",
        "{cores}코어로도 동작하지만, 큰 코드를 읽거나 CPU로 학습하면 느립니다.",
    ),
    "python_range": (
        "repotune needs Python 3.10 to 3.13, for which PyTorch and its own parts are published.",
        "repotune에는 PyTorch와 다른 패키지가 나오는 Python 3.10~3.13이 필요합니다.",
    ),
    "torch_absent": (
        "PyTorch cannot be imported: {error}",
        "PyTorch를 불러올 수 없습니다: {error}",
    ),
    "torch_old": (
        "PyTorch {version} is not one that repotune works with.",
        "PyTorch {version}에서는 repotune이 동작하지 않습니다.",
    ),
    "torch_cpu_only": (
        "This PyTorch was built without CUDA, so it cannot use the {gpu}: install a build with it.",
        "이 PyTorch는 CUDA 없이 빌드되어 {gpu} 카드를 쓸 수 없습니다. CUDA용 빌드를 설치하세요.",
    ),
    "cuda_old": (
        "A build for CUDA {found} is older than any of the PyTorch that repotune needs: install a "
        "newer one.",
        "CUDA {found}용 빌드는 repotune에 필요한 PyTorch보다 오래되었습니다. 새 빌드를 설치하세요.",
    ),
    "no_driver": (
        "There is an NVIDIA card and no driver answers: install the driver, and restart.",
        "NVIDIA 카드는 있지만 드라이버가 응답하지 않습니다. 드라이버를 설치하고 다시 시작하세요.",
    ),
    "no_driver_wsl": (
        "WSL gets no NVIDIA GPU from Windows: install the driver there (in PowerShell), not here.",
        "WSL이 Windows에서 NVIDIA GPU를 받지 못합니다. 드라이버는 여기가 아니라 "
        "Windows(PowerShell)에 설치하세요.",
    ),
    "driver_old": (
        "Driver {driver} is older than the {needed} that a PyTorch for CUDA {cuda} needs: install "
        "a newer driver, and restart.",
        "설치된 드라이버({driver})는 CUDA {cuda}용 PyTorch에 필요한 {needed}보다 오래되었습니다. "
        "새 드라이버를 설치하고 다시 시작하세요.",
    ),
    "driver_old_for_build": (
        "Driver {driver} is older than the {needed} that a PyTorch for CUDA {cuda} needs: install "
        "the build that it runs.",
        "설치된 드라이버({driver})는 CUDA {cuda}용 PyTorch에 필요한 {needed}보다 오래되었습니다. "
        "이 드라이버로 도는 빌드를 설치하세요.",
    ),
    "no_gpu": (
        "No NVIDIA GPU: the starter model trains on the CPU.",
        "NVIDIA GPU가 없어 시작 모델을 CPU로 학습합니다.",
    ),
    "gpu_hidden": (
        "The driver sees the {gpu} and PyTorch does not: it is hidden from programs, or the "
        "computer was not restarted after the driver was installed.",
        "드라이버는 {gpu} 카드를 보지만 PyTorch는 보지 못합니다. GPU가 숨겨져 있거나 드라이버 설치 "
        "후 다시 시작하지 않았습니다.",
    ),
    "gpu_other_build": (
        "PyTorch for CUDA {cuda} has no kernels for compute capability {cc}. The build that has "
        "them is {build}{last}.",
        "CUDA {cuda}용 PyTorch에는 컴퓨트 능력 {cc}용 커널이 없습니다. 지원하는 빌드는 "
        "{build}입니다{last}.",
    ),
    "last_build": (
        "; PyTorch 2.14 is the last that is published so",
        " (이 빌드는 PyTorch 2.14까지만 나옵니다)",
    ),
    "legacy_gpu": (
        "Supported by PyTorch's {build} build only, up to PyTorch 2.14.",
        "PyTorch 2.14까지의 {build} 빌드에서만 지원됩니다.",
    ),
    "gpu_no_build": (
        "No PyTorch from 2.11 on has kernels for compute capability {cc}: use another GPU; Colab "
        "and Kaggle lend a T4 for free.",
        "PyTorch 2.11 이상에는 컴퓨트 능력 {cc}용 커널이 없습니다. 다른 GPU를 쓰세요. Colab과 "
        "Kaggle이 T4를 무료로 빌려줍니다.",
    ),
    "cudnn_absent": (
        "PyTorch brings its own cuDNN and cannot load it: another one lies in its way.",
        "PyTorch에 들어 있는 cuDNN을 불러올 수 없습니다. 다른 cuDNN이 가로막고 있습니다.",
    ),
    "vram_small": (
        "{model} needs {needed} GiB at the least: take a smaller model on this card.",
        "{model}에는 최소 {needed} GiB가 필요합니다. 이 카드에서는 더 작은 모델을 쓰세요.",
    ),
    "vram_filled": (
        "{used} GiB are in use by other programs, {needed} GiB are needed: end {name} ({pid}, "
        "{held} GiB).",
        "다른 프로그램이 {used} GiB를 쓰고 있고 {needed} GiB가 필요합니다. {name}을(를) 끝내세요 "
        "({pid}, {held} GiB).",
    ),
    "vram_filled_unseen": (
        "{used} GiB are in use by other programs, {needed} GiB are needed: close those that the "
        "command lists.",
        "다른 프로그램이 {used} GiB를 쓰고 있고 {needed} GiB가 필요합니다. 아래 명령이 보여 주는 "
        "프로그램을 닫으세요.",
    ),
    "vram_tight": (
        "The smallest configuration fits, with little to spare.",
        "가장 작은 설정은 들어가지만 여유가 적습니다.",
    ),
    "process": ("process {pid}", "프로세스 {pid}"),
    "no_bf16": (
        "This GPU has no bf16: it computes in fp16 with loss scaling.",
        "이 GPU는 bf16을 지원하지 않아 손실 스케일링을 적용한 fp16으로 계산합니다.",
    ),
    "ram_short": (
        "{needed} GiB must be free: close programs; the command shows which hold most.",
        "{needed} GiB가 비어 있어야 합니다. 프로그램을 닫으세요. 아래 명령이 메모리를 많이 쓰는 "
        "프로그램을 보여 줍니다.",
    ),
    "ram_tight": (
        "Enough, if other programs are closed.",
        "다른 프로그램을 닫으면 충분합니다.",
    ),
    "disk_short": (
        "{needed} GB are needed on this drive ({items}): free some space; the command shows what "
        "takes most.",
        "이 드라이브에 {needed} GB가 필요합니다({items}). 공간을 비우세요. 아래 명령이 가장 큰 "
        "폴더들을 보여 줍니다.",
    ),
    "disk_tight": (
        "Enough for the {needed} GB of one run; an export to other formats needs more.",
        "한 번 실행에 드는 {needed} GB에는 충분하지만 다른 형식으로 내보내려면 더 필요합니다.",
    ),
    "disk_slow": (
        "On a spinning disk models load slowly; training itself hardly reads.",
        "하드 디스크에서는 모델을 불러오는 데 오래 걸립니다. 학습 중에는 거의 읽지 않습니다.",
    ),
    "bitsandbytes_unused": (
        "repotune quantises by itself.",
        "repotune은 양자화를 직접 합니다.",
    ),
    "triton_absent": (
        "Optional: plain PyTorch operations are used without it, which are slower.",
        "선택 사항입니다. 없으면 더 느린 PyTorch 기본 연산을 씁니다.",
    ),
    "triton_broken": (
        "{fault}: plain PyTorch operations are used instead, which are slower.",
        "{fault}. 그래서 더 느린 PyTorch 기본 연산을 씁니다.",
    ),
    # what keeps Triton from working, as clauses
    "triton_uninstalled": ("Triton is not installed", "Triton이 설치되어 있지 않습니다"),
    "triton_no_compiler": (
        "Triton does not find a C compiler ({detail})",
        "Triton이 C 컴파일러를 찾지 못합니다({detail})",
    ),
    "triton_no_headers": (
        "Triton does not find Python's headers ({detail})",
        "Triton이 Python 헤더를 찾지 못합니다({detail})",
    ),
    "triton_fails": (
        "Triton does not work here ({detail})",
        "여기서는 Triton이 동작하지 않습니다({detail})",
    ),
    "layer_error": (
        "One layer in 4 bits cannot be trained here: {error}",
        "4비트 계층 하나를 여기서 학습할 수 없습니다: {error}",
    ),
    # the end
    "starts": (
        "`repotune tune PATH` would start here, with {model}.",
        "여기서 `repotune tune PATH`를 시작할 수 있습니다. 모델: {model}",
    ),
    "starts_not": (
        "`repotune tune PATH` with {model} would not start here: {count} to fix.",
        "여기서는 `repotune tune PATH`({model})를 시작할 수 없습니다. 고칠 것: {count}개",
    ),
}


def say(lang: Lang, key: str, **fields: object) -> str:
    """The text ``key`` in ``lang``, with its fields filled in."""
    return TEXTS[key][("en", "ko").index(lang)].format(**fields)
