"""Korean for the sentences of the tables, which are written in English.

A test fails when a table has a sentence that is not here.
"""

from __future__ import annotations

from typing import Final

from repotune.requirements.texts import Lang

KOREAN: Final[dict[str, str]] = {
    # why a figure of the old page differs
    "The planner fills the card on purpose and computes less twice; with everything recomputed "
    "8 x 2048 needs 13 GiB.":
    "계획기는 일부러 카드를 채워 재계산을 줄입니다. 모두 재계산하면 8 x 2048은 13 GiB면 됩니다.",
    "Ours counts every token of 10,000 files of 3,900 tokens, the mean of real code, and the "
    "evaluation of held-out files; the page's hours fit files cut at max_seq_length, a third of "
    "the tokens.":
    "계산값은 실제 코드의 평균인 3,900 토큰짜리 파일 10,000개의 모든 토큰과 평가까지 셉니다. 기존 "
    "안내의 시간은 파일을 max_seq_length에서 잘랐을 때, 곧 토큰의 삼분의 일에 맞습니다.",
    "Ours counts the evaluation too, which is a fifth of so short a run: held-out files, what is "
    "written in them, and what was forgotten.":
    "계산값은 평가까지 셉니다. 평가용 파일, 거기에 써낸 코드, 잊은 것을 재는 시간이며 이렇게 짧은 "
    "실행에서는 오분의 일을 차지합니다.",
    "The two cards differ by a factor of two: the page's hours are the RTX 4090's, the RTX 3090 "
    "takes longer.":
    "두 카드는 두 배 차이가 납니다. 기존 안내의 시간은 RTX 4090의 것이고 RTX 3090은 더 걸립니다.",
    "An A100 is faster than the page says: with 80 GB nothing is computed twice.":
    "A100은 기존 안내보다 빠릅니다. 80 GB면 두 번 계산하는 것이 없습니다.",
    "8 GB are enough: weights are in 4 bits, and what a layer saves adapts to what is free. The "
    "page's own table asks for 6-8 GB at 1 x 1024.":
    "8 GB로 충분합니다. 가중치는 4비트이고, 층이 저장하는 양은 빈 메모리에 맞춰집니다. 기존 안내의 "
    "표도 1 x 1024에 6-8 GB를 적고 있습니다.",
    "12 GB leave room: what is recomputed adapts to what is free, and only 9 GiB are needed at "
    "4 x 2048.":
    "12 GB면 여유가 있습니다. 재계산하는 양은 빈 메모리에 맞춰지고, 4 x 2048에도 9 GiB면 됩니다.",
    "10 GB leave room for rows of 2,048 tokens: what is recomputed adapts to what is free.":
    "10 GB면 2,048 토큰 행에도 여유가 있습니다. 재계산하는 양은 빈 메모리에 맞춰집니다.",
    "8 GB are enough in 4 bits, since what a layer saves adapts to what is free; the page counts "
    "what the usual stack needs at 4 x 2048.":
    "층이 저장하는 양이 빈 메모리에 맞춰지므로 4비트라면 8 GB로 충분합니다. 기존 안내는 흔히 쓰는 "
    "도구가 4 x 2048에서 쓰는 메모리를 적었습니다.",
    "The run itself takes little: weights go to the GPU one tensor at a time. The page counts the "
    "system and other programs too.":
    "실행 자체는 적게 씁니다. 가중치는 텐서 하나씩 GPU로 옮깁니다. 기존 안내는 운영체제와 다른 "
    "프로그램까지 센 값입니다.",
    "Nothing rules out a computer with less, if what the run takes is free; `repotune doctor` "
    "looks at what is free.":
    "더 적은 컴퓨터도 실행에 필요한 만큼 비어 있으면 됩니다. `repotune doctor`가 빈 메모리를 "
    "확인합니다.",
    "The page's own tier says 16 GB, and that is enough to compute nothing twice.":
    "기존 안내의 권장 단계는 16 GB이고, 두 번 계산하는 것 없이 하기에 충분합니다.",
    "The job needs the download and a few GiB; the page counts several runs and models.":
    "작업에는 내려받은 모델과 몇 GiB만 필요합니다. 기존 안내는 여러 실행과 모델을 센 값입니다.",
    "Nothing that is computed: on a GPU two cores keep it busy, more make reading the tree "
    "quicker.":
    "계산하는 값이 아닙니다. GPU는 코어 두 개로도 쉬지 않으며, 코어가 많으면 코드를 읽는 시간이 "
    "줄어듭니다.",
    "The linears take 0.5159 byte a parameter; embedding and head are not quantised, and read "
    "from the download.":
    "선형층은 파라미터당 0.5159바이트입니다. 임베딩과 출력층은 양자화하지 않고 내려받은 파일에서 "
    "읽습니다.",
    "A checkpoint holds the adapter and its optimizer, 0.45 GiB, and the newest two are kept; the "
    "page's figure is that of checkpoints with more in them.":
    "체크포인트에는 어댑터와 옵티마이저 상태만 있어 0.45 GiB이고, 최근 두 개만 남깁니다. 기존 "
    "안내는 더 많은 것을 담은 체크포인트의 값입니다.",
    "The page rounds; ours is the list price on the date of its source.":
    "기존 안내는 반올림한 값이고, 이쪽은 출처 날짜의 정가입니다.",
    "The same floor; 3.10 to 3.13 are tested.":
    "하한은 같고, 3.10부터 3.13까지 시험합니다.",
    "The PyTorch that is needed is built for newer CUDA only; what counts is the driver, since the "
    "build brings its own CUDA.":
    "필요한 PyTorch는 더 새로운 CUDA용으로만 빌드됩니다. 빌드에 CUDA가 들어 있으므로 드라이버만 "
    "맞으면 됩니다.",
    "2.11 or newer: attention over packed rows and the tests need it.":
    "2.11 이상: 묶은 행의 어텐션과 테스트에 필요합니다.",
    # what the old page says
    "weeks to months": "수 주–수 개월",
    "hundreds of times slower": "수백 배 느림",
    "less is impossible": "그보다 적으면 불가능",
    "SSD": "SSD",
    "SSD, NVMe recommended": "SSD, NVMe 권장",
    "RTX 4090, RTX 3090": "RTX 4090, RTX 3090",
    "Intel i5, AMD Ryzen 5": "Intel i5, AMD Ryzen 5",
    "Intel i7, AMD Ryzen 7": "Intel i7, AMD Ryzen 7",
    "Intel i9, AMD Ryzen 9": "Intel i9, AMD Ryzen 9",
    "Python 3.10 or newer, 3.11 recommended": "Python 3.10 이상, 3.11 권장",
    "CUDA 11.8 or newer, 12.1 recommended": "CUDA 11.8 이상, 12.1 권장",
    "PyTorch 2.0 or newer": "PyTorch 2.0 이상",
    # notes of cloud offers
    "A GPU is not promised, and long use lowers the limit.":
    "GPU가 보장되지 않으며, 오래 쓰면 한도가 줄어듭니다.",
    "The price buys 100 compute units, an A100 uses 5.37 an hour; 100 more cost the same.":
    "이 값으로 컴퓨팅 단위 100개를 받고, A100은 시간당 5.37개를 씁니다. 100개를 더 사는 값도 "
    "같습니다.",
    "The price buys 100 compute units, a T4 uses 1.07 an hour; 100 more cost the same.":
    "이 값으로 컴퓨팅 단위 100개를 받고, T4는 시간당 1.07개를 씁니다. 100개를 더 사는 값도 "
    "같습니다.",
    "The machine 0.19 and the GPU 0.35.": "머신 0.19와 GPU 0.35를 더한 값입니다.",
    "Few machines for many users; the project is public.":
    "머신은 적고 사용자는 많으며, 프로젝트가 공개됩니다.",
    "With the Pro plan, 8 USD a month.": "월 8 USD인 Pro 요금제에서 쓸 수 있습니다.",
    "With the Growth plan, 39 USD a month.": "월 39 USD인 Growth 요금제에서 쓸 수 있습니다.",
    # what the memory model was checked against
    "one H100 80GB, torch 2.11, CodeLlama-7B shape, NF4, LoRA r16, 2026-11-25":
    "H100 80GB 한 장, torch 2.11, CodeLlama-7B 모양, NF4, LoRA r16, 2026-11-25",
}  # fmt: skip


def translated(sentence: str, lang: Lang) -> str:
    """The sentence in ``lang``; as it is where there is no other."""
    return sentence if lang == "en" else KOREAN.get(sentence, sentence)
