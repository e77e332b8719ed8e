"""The words of a report in English and Korean; ``{}`` fields are filled by ``say``."""

from __future__ import annotations

from typing import Final

from repotune.report.contents import Lang

TO: Final = "\N{NO-BREAK SPACE}–\N{NO-BREAK SPACE}"
"""Keeps the two ends of an interval on one line."""

_TEXTS: Final[dict[str, tuple[str, str]]] = {
    "title": ("Report on {name}", "{name} 보고서"),
    "model": ("Model", "모델"),
    "tree": ("Source tree", "소스 폴더"),
    "begun": ("Begun (UTC)", "시작 (UTC)"),
    "status": ("Status", "상태"),
    "status_finished": ("finished", "끝남"),
    "status_interrupted": ("interrupted: it can be resumed", "중단됨: 이어서 할 수 있습니다"),
    "status_stopped": (
        "stopped in the middle: it can be resumed",
        "도중에 멈춤: 이어서 할 수 있습니다",
    ),
    "status_failed": ("failed: it can be resumed", "실패함: 이어서 할 수 있습니다"),
    "status_running": (
        "still running: the report shows what there is",
        "아직 진행 중: 지금까지의 내용만 담았습니다",
    ),
    "progress": ("{done} of {planned} steps", "{planned}스텝 중 {done}스텝"),
    "verdict": ("Verdict", "판정"),
    "verdict_unknown": ("Not known", "알 수 없음"),
    "not_evaluated": (
        "The run was not evaluated, so nobody knows whether it helped. `repotune evaluate {run}` "
        "compares base and tuned on the held-out files; then make the report again.",
        "평가하지 않았으므로 효과가 있는지 알 수 없습니다. `repotune evaluate {run}`으로 평가용 "
        "파일에서 원본 모델과 튜닝 모델을 비교한 뒤 보고서를 다시 만드세요.",
    ),
    "not_finished": (
        "The run has no adapter yet, so there is nothing to judge. `repotune tune --resume {run}` "
        "goes on with it.",
        "아직 어댑터가 없어 판정할 것이 없습니다. `repotune tune --resume {run}`으로 "
        "이어서 하세요.",
    ),
    "memorisation": ("Memorisation", "암기"),
    "memorised": (
        "It has memorised: random lines that were put into training files have lower losses than "
        "{controls} controls that were not (p = {p}), or are written out. Give it only to people "
        "who may read the code.",
        "학습 코드를 외웠습니다. 학습 파일에 넣은 무작위 줄의 손실이 넣지 않은 대조군 "
        "{controls}개보다 낮거나(p = {p}), 모델이 그 줄을 그대로 써냅니다. 코드를 볼 수 있는 "
        "사람에게만 주세요.",
    ),
    "not_memorised": (
        "Random lines that were put into training files are known no better than {controls} "
        "controls that were not (p = {p}), and none is written out.",
        "학습 파일에 넣은 무작위 줄을 넣지 않은 대조군 {controls}개보다 더 잘 알지 못하며"
        "(p = {p}), 그대로 써내지도 않습니다.",
    ),
    "canary_repeats": ("Put in", "넣은 횟수"),
    "canary_count": ("Lines", "줄 수"),
    "canary_bits": ("Exposure, bits (chance: {chance})", "노출도, 비트 (우연이면 {chance})"),
    "canary_p": ("p", "p"),
    "canary_out": ("Written out", "그대로 써냄"),
    "none_seen": ("no difference in any file", "모든 파일에서 차이 없음"),
    "bits": ("Bits per byte, held-out code", "평가용 코드의 바이트당 비트"),
    "bits_note": ("lower is better", "낮을수록 좋음"),
    "exact_match": ("Next line exactly right", "다음 줄이 정확히 일치"),
    "edit_similarity": ("Next line, edit similarity", "다음 줄 편집 유사도"),
    "name_recall": ("Your own names recalled", "저장소 고유 이름 재현"),
    "infill_exact_match": ("Gap filled exactly", "빈칸을 정확히 채움"),
    "infill_edit_similarity": ("Gap, edit similarity", "빈칸 편집 유사도"),
    "infill_name_recall": ("Your own names recalled in gaps", "빈칸에서 저장소 고유 이름 재현"),
    "infill_stop_rate": ("Gap, stopped by itself", "빈칸을 채우고 스스로 멈춤"),
    "what": ("Figure", "항목"),
    "base": ("Base", "원본 모델"),
    "tuned": ("Tuned", "튜닝 모델"),
    "truth": ("In the file", "실제 코드"),
    "difference": ("Difference (95 % interval)", "차이 (95 % 구간)"),
    "too_few": ("too few files for an interval", "구간을 내기에 파일이 적음"),
    "not_computed": (
        "no interval: evaluate again",
        "구간 없음: 다시 평가하세요",
    ),
    "proof": ("Held-out code, base against tuned", "평가용 코드에서 비교"),
    "sampled": (
        "{files} of {available} held-out files, {tokens} tokens, {cursors} next lines, {gaps} gaps "
        "and {names} names asked for. Intervals are a paired bootstrap over files.",
        "평가용 파일 {available}개 중 {files}개, 토큰 {tokens}개, 다음 줄 {cursors}개, "
        "빈칸 {gaps}개, 이름 {names}개. "
        "구간은 파일 단위 짝지은 부트스트랩으로 구했습니다.",
    ),
    "no_near": (
        "No file in these figures has a Jaccard similarity of 0.7 or more to a training file (held "
        "out, but left out for that: {count}): near-duplicates from 0.6 on are kept on one side "
        "when the corpus is split.",
        "이 수치에는 학습 파일과 자카드 유사도가 0.7 이상인 파일이 없습니다(그래서 뺀 평가용 파일 "
        "{count}개). 말뭉치를 나눌 때 0.6 이상 비슷한 파일은 한쪽에만 두기 때문입니다.",
    ),
    "forgetting": ("What was forgotten", "잊은 것"),
    "change": ("Change", "변화"),
    "library": (
        "Bits per byte, Python's standard library",
        "파이썬 표준 라이브러리의 바이트당 비트",
    ),
    "human_eval": ("HumanEval tasks solved", "HumanEval 과제 통과"),
    "infilling": ("HumanEval lines filled in", "HumanEval 한 줄 채우기 통과"),
    "lost_won": ("{lost} lost, {won} won, p = {p}", "잃음 {lost}, 얻음 {won}, p = {p}"),
    "forgetting_note": (
        "Code and tasks that are not yours. Forgetting is a rise of more than 2 % in bits per byte "
        "of the standard library, or fewer tasks solved with McNemar's exact p below 0.05.",
        "내 코드가 아닌 코드와 과제입니다. 표준 라이브러리의 바이트당 비트가 2 % 넘게 늘거나, "
        "통과한 과제가 줄고 맥니마 정확 검정의 p가 0.05보다 작으면 잊은 것으로 봅니다.",
    ),
    "not_all_measured": (
        "Not everything was measured:",
        "재지 못한 것이 있습니다.",
    ),
    "by_language": ("By language", "언어별"),
    "by_directory": ("By directory", "폴더별"),
    "language": ("Language", "언어"),
    "directory": ("Directory", "폴더"),
    "files": ("Files", "파일"),
    "more": (
        "{count} more are in evaluation.json.",
        "나머지 {count}개는 evaluation.json에 있습니다.",
    ),
    "curves": ("Curves", "학습 곡선"),
    "no_steps": ("No training step was logged.", "기록된 학습 스텝이 없습니다."),
    "no_library": (
        "The curves are not drawn, because matplotlib is not installed: "
        "`pip install matplotlib`, then make the report again.",
        "matplotlib이 없어 곡선을 그리지 못했습니다. `pip install matplotlib` 뒤에 "
        "보고서를 다시 만드세요.",
    ),
    "loss": ("Loss, nats per token", "손실 (토큰당 nat)"),
    "legend_train": ("training", "학습"),
    "legend_heldout": ("held out", "평가용 코드"),
    "no_heldout": (
        "No held-out loss was measured during the training.",
        "학습 중에 평가용 코드의 손실을 재지 않았습니다.",
    ),
    "no_memory_curve": (
        "The memory of each step was not recorded.",
        "스텝별 메모리는 기록되지 않았습니다.",
    ),
    "learning_rate": ("Learning rate", "학습률"),
    "grad_norm": ("Gradient norm, before clipping", "그래디언트 노름 (자르기 전)"),
    "tokens_per_second": ("Tokens per second", "초당 토큰"),
    "peak_gib": ("Taken at each step, GiB", "스텝별로 차지한 양 (GiB)"),
    "at_most": ("at most {value}", "최대 {value}"),
    "legend_plan": ("planned, with its range", "예측과 그 범위"),
    "averaged": (
        "Each point is a mean of {count} steps.",
        "점 하나는 {count}스텝의 평균입니다.",
    ),
    "x_steps": ("Across: optimizer steps.", "가로축: 학습 스텝."),
    "memory": ("Memory", "메모리"),
    "memory_gpu": ("GPU memory", "GPU 메모리"),
    "memory_ram": ("RAM", "램"),
    "memory_line": (
        "{where}: {expected} GiB planned ({low} to {high}), {measured}. Free at the start: "
        "{free} GiB.",
        "{where}: 예측 {expected} GiB ({low}~{high}), {measured}. 시작할 때 빈 메모리 {free} GiB.",
    ),
    "memory_note": (
        "The peak is that of all, so it may lie above the curve: loading and the last held-out "
        "loss are in it.",
        "최댓값은 전체에서 잰 것이어서 곡선보다 클 수 있습니다. 모델을 불러올 때와 마지막 평가용 "
        "손실을 잴 때도 들어 있습니다.",
    ),
    "measured_gib": ("{gib} GiB measured", "실측 {gib} GiB"),
    "not_measured": ("not measured", "재지 않음"),
    "no_plan": ("Nothing was planned for this run.", "이 실행에는 예측이 없습니다."),
    "no_memory": (
        "There is no prediction of memory to compare with.",
        "비교할 메모리 예측이 없습니다.",
    ),
    "plan": ("The plan against what happened", "예측과 실제"),
    "planned": ("Planned", "예측"),
    "happened": ("Happened", "실제"),
    "within": ("In the range", "범위 안"),
    "yes": ("yes", "예"),
    "no": ("no", "아니요"),
    "peak": ("Peak memory, GiB", "최대 메모리 (GiB)"),
    "speed": ("Tokens per second, warm", "초당 토큰 (준비 뒤)"),
    "steps": ("Optimizer steps", "학습 스텝"),
    "start_minutes": ("Minutes of the start", "시작 (분)"),
    "rehearsal_minutes": ("Minutes of the rehearsal", "예행연습 (분)"),
    "training_minutes": ("Minutes of the training", "학습 (분)"),
    "evaluation_minutes": ("Minutes of the evaluation", "평가 (분)"),
    "all_minutes": ("Minutes in all", "전체 (분)"),
    "not_counted": (
        "The start is reading the code and loading the model, of all processes of a resumed run "
        "together, which no plan foresees. The plan counts neither a rehearsal nor downloads, and "
        "not HumanEval, which only `repotune evaluate` runs.",
        "시작은 코드를 읽고 모델을 불러오는 시간입니다. 이어서 한 실행이라면 매번의 시작을 더한 "
        "값이라 예측과 견주지 않습니다. 예측에는 예행연습과 내려받기, `repotune evaluate`만 "
        "실행하는 HumanEval이 들어 있지 않습니다.",
    ),
    "policy": ("What layers keep for their backward", "역전파를 위해 층이 보관하는 것"),
    "corpus": ("What the corpus held and dropped", "말뭉치에 담긴 것과 빠진 것"),
    "no_corpus": (
        "The source tree was not read yet, or its corpus is gone.",
        "소스 폴더를 아직 읽지 않았거나 말뭉치가 없습니다.",
    ),
    "corpus_line": (
        "{kept} of {seen} files kept ({size} MB): {train} to train on, {heldout} held out. "
        "Secrets replaced by placeholders: {secrets}. Folders not entered: {folders}.",
        "파일 {seen}개 중 {kept}개를 담음 ({size} MB): 학습 {train}개, 평가용 {heldout}개. "
        "자리표시자로 바꾼 비밀값: {secrets}개. 들어가지 않은 폴더: {folders}개.",
    ),
    "rows_line": (
        "{share} of the tokens for training reached one of {rows} rows, which are {fill} "
        "full; {fim} pieces "
        "teach filling in the middle.",
        "학습 토큰의 {share}가 {rows}개 행에 들어갔고 행은 {fill} 찼습니다. 조각 {fim}개로 "
        "중간 채우기를 가르칩니다.",
    ),
    "files_or_folders": ("Files or folders", "파일이나 폴더"),
    "dropped": ("Dropped, by reason", "이유별로 빠진 것"),
    "reason": ("Reason", "이유"),
    "nothing_dropped": ("Nothing was dropped.", "빠진 것이 없습니다."),
    "kept": ("Kept", "담음"),
    "kept_mb": ("MB kept", "담은 MB"),
    "dropped_short": ("Dropped", "빠짐"),
    "completions": ("Written side by side", "써낸 코드 나란히 보기"),
    "completions_note": (
        "A sample drawn by a digest of the places alone, whatever was written there. Marked: what "
        "is written otherwise than in the file, and struck out: what is missing.",
        "무엇을 썼는지와 상관없이 위치의 해시값만으로 뽑은 표본입니다. 표시된 부분은 파일과 다르게 "
        "쓴 것, 줄 그은 부분은 빠뜨린 것입니다.",
    ),
    "next_lines": ("Next lines", "다음 줄"),
    "gaps": ("Gaps: fill in the middle", "빈칸: 중간 채우기"),
    "shown_of": (
        "{shown} of {count}. Exactly right: base {base}, tuned {tuned} of these; base {all_base}, "
        "tuned {all_tuned} of all.",
        "{count}개 중 {shown}개입니다. 정확히 맞힌 것은 이 중에서 원본 모델 {base}개, 튜닝 모델 "
        "{tuned}개, 전체에서는 원본 모델 {all_base}개, 튜닝 모델 {all_tuned}개입니다.",
    ),
    "taught": (
        "The base model was never taught to fill in: it went on from the code before the gap, and "
        "was cut off after as many lines as the gap has.",
        "원본 모델은 중간 채우기를 배운 적이 없어, 빈칸 앞의 코드에 이어 쓰고 빈칸의 줄 수에서 "
        "잘랐습니다.",
    ),
    "rest_of_line": ("to the end of a line", "줄 끝까지"),
    "line": ("one line", "한 줄"),
    "lines": ("several lines", "여러 줄"),
    "went_on": ("did not stop", "멈추지 않음"),
    "no_completions": ("Nothing was written.", "써낸 것이 없습니다."),
    "right": ("right", "일치"),
    "nothing_written": ("(nothing)", "(없음)"),
    "events": ("Events on the way", "도중에 있었던 일"),
    "no_events": ("Nothing out of the ordinary was recorded.", "특별한 일은 기록되지 않았습니다."),
    "overflows": (
        "{count} steps overflowed fp16 and changed no weight; the loss scale was lowered.",
        "{count}스텝에서 fp16이 넘쳐 가중치를 바꾸지 않았고, 손실 배율을 낮췄습니다.",
    ),
    "resumed": (
        "It was stopped, and resumed from the checkpoint of step {step}.",
        "멈췄다가 {step}스텝 체크포인트에서 이어서 했습니다.",
    ),
    "healed": ("Step {step}, memory ran out: {remedy}", "{step}스텝에서 메모리 부족: {remedy}"),
    "healed_before": (
        "In the rehearsal, memory ran out, and so the run began: {remedy}",
        "예행연습 중 메모리가 부족해 다음과 같이 시작했습니다: {remedy}",
    ),
    "best_step": (
        "The weights of step {step} were exported, where the held-out loss was lowest ({loss}).",
        "평가용 코드의 손실이 가장 낮았던 {step}스텝의 가중치를 내보냈습니다({loss}).",
    ),
    "stopped_early": (
        "The training ended early, because the held-out loss fell no more.",
        "평가용 코드의 손실이 더 줄지 않아 학습을 일찍 끝냈습니다.",
    ),
    "unreadable": (
        "{count} lines of metrics.jsonl cannot be read and are left out.",
        "metrics.jsonl의 {count}줄을 읽을 수 없어 뺐습니다.",
    ),
    "reproduce": ("How to reproduce", "다시 해 보기"),
    "settings": ("Settings", "설정"),
    "command": ("Save the settings as config.toml, then:", "설정을 config.toml로 저장한 뒤:"),
    "identity": ("Versions, seed and digests", "버전, 시드, 다이제스트"),
    "seed": ("Seed", "시드"),
    "revision": ("Revision", "리비전"),
    "precision": ("Precision", "정밀도"),
    "base_digest": ("Base model's digest", "원본 모델의 다이제스트"),
    "corpus_digest": ("Corpus' fingerprint", "말뭉치 지문"),
    "rows_digest": ("Rows' fingerprint", "행 지문"),
    "machine": ("Machine", "기기"),
    "made_by": (
        "Made by repotune {version} from {path}.",
        "repotune {version}이 {path}에서 만들었습니다.",
    ),
}

REASONS_KO: Final[dict[str, str]] = {
    "symlink": "심볼릭 링크", "ignored by git": "git이 무시함", "excluded": "제외함",
    "version control": "버전 관리", "virtual environment": "가상 환경", "dependencies": "의존성",
    "cache": "캐시", "run of repotune": "repotune 실행 폴더", "vendored": "외부 코드",
    "not a regular file": "일반 파일 아님", "name is not UTF-8": "이름이 UTF-8 아님",
    "unreadable": "읽을 수 없음", "vanished": "사라짐", "empty": "비어 있음",
    "too large": "너무 큼",
    "binary": "바이너리", "undecodable": "해독 불가", "unknown language": "알 수 없는 언어",
    "plain text": "일반 텍스트", "long data file": "긴 데이터 파일",
    "too many lines": "줄이 너무 많음",
    "long lines": "줄이 너무 긺", "minified": "압축된 코드", "generated": "생성된 코드",
    "encoded data": "인코딩된 데이터", "few letters": "글자가 적음",
    "little visible text": "보이는 글이 적음", "secrets not removable": "비밀값을 뺄 수 없음",
    "duplicate": "중복",
}  # fmt: skip


def say(name: str, lang: Lang, /, **values: object) -> str:
    """The text ``name``, with its fields filled; backticks mark code."""
    return _TEXTS[name][lang == "ko"].format(**values)


def quoted(argument: str) -> str:
    """A path as it can be typed."""
    return f'"{argument}"' if " " in argument else argument


def reason_text(reason: str, lang: Lang) -> str:
    """Why a file was dropped."""
    return REASONS_KO.get(reason, reason) if lang == "ko" else reason
