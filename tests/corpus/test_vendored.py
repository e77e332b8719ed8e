"""Which paths usually hold other people's code."""

import pytest

from repotune.corpus.vendored import is_vendored


@pytest.mark.parametrize(
    "path",
    [
        "vendor/a.go", "a/vendor/b.go", "_vendor/a.py", "pip/_vendor/a.py", "third_party/x/y.c",
        "third-party/y.c", "3rdparty/y.c", "external/y.c", "lib/site-packages/a.py",
        "static/app.min.js", "js/jquery-3.1.js", "jquery.js", "css/bootstrap.css", "configure",
        "sub/gradlew", "Pods/a.m",
    ],
)  # fmt: skip
def test_vendored(path) -> None:
    assert is_vendored(path)


@pytest.mark.parametrize(
    "path",
    [
        "a.py", "vendors.py", "vendoring/a.py", "myvendor/a.go", "src/external.c", "admin.js",
        "reactor.js", "configure.py", "dist/a.js", "docs/a.md", "jquery/plugin.ts",
    ],
)  # fmt: skip
def test_not_vendored(path) -> None:
    assert not is_vendored(path)
