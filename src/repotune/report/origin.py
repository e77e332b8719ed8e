"""What the run was made from: the corpus, and how to make it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from repotune.report.contents import Contents, Lang
from repotune.report.tags import Bar, Cell, code_block, paragraph, section, table, text
from repotune.report.texts import quoted, reason_text, say

LANGUAGES_SHOWN: Final = 25
REASONS_PER_LANGUAGE: Final = 3


def corpus(run: Contents, lang: Lang) -> str:
    """Kept and dropped files, by reason and by language."""
    found = run.corpus
    if found is None:
        return section("corpus", say("corpus", lang), [paragraph(say("no_corpus", lang))])
    parts = [
        paragraph(
            say(
                "corpus_line", lang, kept=f"{found.files_kept:,}", seen=f"{found.files_seen:,}",
                size=f"{found.bytes_kept / 1e6:,.1f}", train=f"{found.files_train:,}",
                heldout=f"{found.files_heldout:,}", folders=f"{run.folders_passed:,}",
                secrets=f"{sum(found.secrets_replaced.values()):,}",
            )
        )
    ]  # fmt: skip
    if run.rows is not None:
        parts.append(
            paragraph(
                say(
                    "rows_line", lang, share=f"{run.rows.tokens_kept:.1%}",
                    rows=f"{run.rows.rows:,}", fill=f"{run.rows.fill:.1%}",
                    fim=f"{run.rows.fim_documents:,}",
                )
            )
        )  # fmt: skip
    parts.append(f"<h3>{text(say('dropped', lang))}</h3>")
    if found.dropped:
        by_reason = (say("reason", lang), say("files_or_folders", lang), "")
        parts.append(table(by_reason, _reasons(found.dropped, lang), numbers=frozenset({1})))
    else:
        parts.append(paragraph(say("nothing_dropped", lang)))
    if run.languages:
        parts.append(f"<h3>{text(say('by_language', lang))}</h3>")
        names = ("language", "kept", "kept_mb", "dropped_short", "reason")
        head = tuple(say(name, lang) for name in names)
        parts.append(table(head, _languages(run, lang), numbers=frozenset({1, 2, 3})))
    return section("corpus", say("corpus", lang), parts)


def reproduce(run: Contents, lang: Lang) -> str:
    """Command, settings, versions, seed and digests."""
    state = run.state
    command = f"repotune tune {quoted(state.tree)} --config config.toml"
    if state.config.get("model") is None and state.facts.get("model"):
        # Which one that was depended on the machine.
        command += f" --model {quoted(state.facts['model'])}"
    return section(
        "reproduce",
        say("reproduce", lang),
        [
            paragraph(say("command", lang)),
            code_block(command),
            f"<details open><summary>{text(say('settings', lang))}</summary>"
            f"{code_block(run.config_toml.strip())}</details>",
            f"<h3>{text(say('identity', lang))}</h3>",
            table((say("what", lang), ""), _identity(run, lang)),
        ],
    )


def _reasons(dropped: dict[str, int], lang: Lang) -> Iterator[tuple[Cell, ...]]:
    most = max(dropped.values())
    for reason, count in sorted(dropped.items(), key=lambda item: (-item[1], item[0])):
        yield reason_text(reason, lang), f"{count:,}", Bar(count / most)


def _languages(run: Contents, lang: Lang) -> Iterator[tuple[str, ...]]:
    for one in run.languages[:LANGUAGES_SHOWN]:
        ranked = sorted(one.dropped.items(), key=lambda item: (-item[1], item[0]))
        why = ", ".join(
            f"{reason_text(reason, lang)} {count:,}"
            for reason, count in ranked[:REASONS_PER_LANGUAGE]
        )
        yield (
            one.language,
            f"{one.kept:,}",
            f"{one.kept_bytes / 1e6:,.2f}",
            f"{sum(one.dropped.values()):,}",
            why,
        )


def _identity(run: Contents, lang: Lang) -> Iterator[tuple[str, str]]:
    state, facts = run.state, run.state.facts
    yield from ((name, str(version)) for name, version in state.versions.items())
    machine = facts.get("machine") or {}
    rows = (
        ("seed", state.config.get("seed")),
        ("precision", facts.get("precision")),
        ("machine", machine.get("gpu") or machine.get("cpu")),
        ("revision", facts.get("revision")),
        ("base_digest", facts.get("base_digest")),
        ("corpus_digest", run.corpus and run.corpus.fingerprint),
        ("rows_digest", run.rows and run.rows.fingerprint),
    )
    yield from ((say(name, lang), str(value)) for name, value in rows if value is not None)
