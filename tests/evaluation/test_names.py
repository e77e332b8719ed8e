"""Which names a repository defines, and which of them a line asks for."""

import pytest

from repotune.evaluation.names import asked_names, defined_names

from .tiny import document


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("class Basket(Base):\n    def total(self):\n        return sum(self.x)\n", "Basket total"),
        ("    self.prices = load()\nRATE: float = 0.1\ncount += 1\n", "prices RATE count"),
        ("if left == right and other <= limit:\n    pass\n", ""),
        ("static int ring_push(struct ring *r)\n{\n\treturn helper(r);\n}\n", "ring_push"),
        ("static const char *const kind = 0;\nint main(void)\n", "kind main"),
        ("# the class that knows the type of all\n", ""),
        ("pub fn parse_line(text: &str) -> Line {\n  let mut rest = text;\n", "parse_line rest"),
        ("export const makeStore = (a) => a;\nfunction go(x) {}\n", "makeStore"),
        (
            "public final class Cart {\n    private List<Item> items = other();\n"
            "    public void addItem(Item item) {\n        while (go(x)) {\n",
            "Cart items addItem",
        ),
        ("func (s *Store) Fetch(id int) error {\n\tuserName := s.load(id)\n", "Fetch userName"),
        ("class Foo {\n  handleClick(event) {\n    if (that(x)) {\n", "Foo handleClick"),
        ("found = load(path, left=1,\n    right=2)\nif limit <= other:\n", "found"),
        ("    std::string label = other();\n    node->next = x;\n", "label next"),
        ("from a import (\n    Base,\n)\nself = this\n", ""),
        ("장바구니 = 1\nx = 2\n", "장바구니"),
    ],
)
def test_names_that_are_declared_assigned_or_head_a_function(text, names):
    assert defined_names([document("a", text)]) >= set(names.split())
    called = {
        "sum",
        "load",
        "helper",
        "left",
        "right",
        "limit",
        "Base",
        "other",
        "go",
        "x",
        "int",
        "char",
        "that",
        "knows",
        "ring",
    }
    assert not defined_names([document("a", text)]) & called


def test_asked_is_what_the_repository_defines_and_the_code_above_does_not_say():
    defined = frozenset({"Basket", "total", "prices"})
    truth = "    return Basket(prices).total + len(other)"
    assert asked_names(truth, "def f(prices):\n", defined) == ("Basket", "total")
    assert asked_names(truth, "totals Basket_", defined) == ("Basket", "prices", "total")
    assert asked_names("return 1", "", defined) == ()
