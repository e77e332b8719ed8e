"""Other people's code: the paths at which it usually lies."""

from __future__ import annotations

import re

# After GitHub Linguist's vendor.yml, lib/linguist/vendor.yml as of 2025, without what is often a
# project's own code (cache/, dist/, tools/, docs/static/, *.d.ts), and with Python's packages.
_FOLDERS = (
    r"_?vendors?|vendored|third[-_]?party|3rd[-_]?party|extern(?:al)?s?|node_modules|"
    r"bower_components|Godeps|Pods|Carthage|site-packages|dist-packages|gradle/wrapper|"
    r"bootstrap-datepicker|ace-builds|MathJax|tiny_mce"
)
_FILES = (
    r".+[.-]min\.(?:js|css)|"
    r"(?:jquery|bootstrap|mootools|yui|angular|d3|react|prototype|cordova)"
    r"(?:[.-][\w.-]*)?\.(?:js|css)|"
    r"(?:ckeditor|tiny_mce|dojo|MochiKit|html5shiv|modernizr[\w.-]*|knockout-[\w.-]*)\.js|"
    r"(?:font-awesome|normalize|animate|fontello[\w.-]*)\.(?:css|less|scss)|"
    r"cpplint\.py|gradlew(?:\.bat)?|mvnw(?:\.cmd)?|configure|config\.(?:guess|sub)|"
    r"aclocal\.m4|libtool\.m4|lt(?:options|sugar|version|~obsolete)\.m4|erlang\.mk"
)
_VENDORED = re.compile(rf"(?:^|/)(?:(?:{_FOLDERS})/|(?:{_FILES})$)")


def is_vendored(path: str) -> bool:
    """Whether the file at ``path`` (relative, with forward slashes) is copied from elsewhere."""
    return _VENDORED.search(path) is not None
