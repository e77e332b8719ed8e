"""The page of requirements, wholly computed: what a model needs, on which GPU, for how long.

``collect`` asks the planner and the tables for the figures (``figures``), ``document`` puts them
into words in English or Korean (``texts``, ``sentences``), ``markdown`` and ``html`` draw the same
document. No torch, no clock, nothing of this machine: the same tables give the same page.
"""

from repotune.requirements.as_json import to_json
from repotune.requirements.collect import collect
from repotune.requirements.document import document
from repotune.requirements.html import to_html
from repotune.requirements.markdown import to_markdown
from repotune.requirements.texts import Lang

__all__ = ["Lang", "collect", "document", "to_html", "to_json", "to_markdown"]
