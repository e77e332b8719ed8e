"""What a run came to, as one HTML file: did it learn my code, and what happened on the way.

``contents`` is all that a report is made of, ``metrics`` its curves as they were logged; ``page``
puts together what ``proof`` (verdict, figures), ``completions`` (what was written), ``course``
(curves, memory, plan, events) and ``origin`` (corpus, how to reproduce) write; ``tags`` escapes,
``texts`` has the words, ``curves`` draws.
"""

from repotune.report.contents import Contents, Lang, LanguageTally
from repotune.report.metrics import Metrics, parse_metrics
from repotune.report.page import MARK, to_html

__all__ = ["MARK", "Contents", "Lang", "LanguageTally", "Metrics", "parse_metrics", "to_html"]
