"""Selectors: grammar, meaning and refusals, as k8s.io/apimachinery/pkg/labels and pkg/fields have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube.resources import BUILTIN_RESOURCES, Resource
from local.kube.selectors import SelectorError, field_value, parse_field_selector, parse_label_selector

LABELS = {"a": "1", "env": "prod", "empty": "", "example.com/x": "y", "n": "5"}


def resource(plural: str, group: str = "") -> Resource:
    return next(r for r in BUILTIN_RESOURCES if (r.plural, r.group) == (plural, group))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("a", True),
        ("!a", False),
        ("b", False),
        ("!b", True),
        ("a=1", True),
        ("a==1", True),
        (" a = 1 , env = prod ", True),
        ("a=2", False),
        ("a!=1", False),
        ("b!=1", True),
        ("a=1,env=test", False),
        ("env in (test, prod)", True),
        ("env in (test)", False),
        ("env notin (test)", True),
        ("env notin (prod)", False),
        ("b notin (x)", True),
        ("empty=", True),
        ("empty", True),
        ("a=", False),
        ("empty in ()", True),
        ("empty in (,x)", True),
        ("empty in (x,)", True),
        ("a in (,)", False),
        ("example.com/x=y", True),
        ("n>4", True),
        ("n>5", False),
        ("n<6", True),
        ("env>1", False),
        ("b>1", False),
        ("in in (in,notin)", False),
        ("a in (in,1)", True),
    ],
)
def test_labels(text: str, expected: bool) -> None:
    assert parse_label_selector(text).matches({"metadata": {"labels": LABELS}}) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=1,", "found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',', or identifier"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a==(", "unable to parse requirement: found '(', expected: identifier"),
        ("-a=1", "name part must consist of alphanumeric characters"),
        ("a=$", "a valid label must be an empty string or consist of alphanumeric characters"),
        ("a>x", "for 'Gt', 'Lt' operators, the value must be an integer"),
    ],
)
def test_bad_label_selectors(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as refusal:
        parse_label_selector(text)
    assert message in str(refusal.value)


@given(st.text(alphabet="ab=!(), <>innot", max_size=20))
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    try:
        selector = parse_label_selector(text)
    except SelectorError:
        return
    assert selector.matches({"metadata": {"labels": LABELS}}) in (True, False)


WORD = st.text(alphabet="abc-1", min_size=1, max_size=5).filter(lambda text: text[0] != "-" and text[-1] != "-")


@given(st.dictionaries(WORD, WORD, min_size=1), st.data())
def test_a_selector_made_of_the_labels_matches_them(labels: dict[str, str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(labels)), min_size=1, unique=True))
    text = ",".join(f"{key}={labels[key]}" for key in chosen)
    obj = {"metadata": {"labels": labels}}
    assert parse_label_selector(text).matches(obj)
    assert not parse_label_selector(f"{text},!{chosen[0]}").matches(obj)


POD = {
    "metadata": {"name": "a", "namespace": "ns"},
    "spec": {"nodeName": "n1", "hostNetwork": True},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metadata.name=a", True),
        ("metadata.name==a,metadata.namespace=ns", True),
        ("metadata.name!=a", False),
        ("spec.nodeName=n1,status.phase!=Failed", True),
        ("spec.nodeName=", False),
        ("status.podIP=", True),
        ("spec.hostNetwork=true", True),
    ],
)
def test_fields(text: str, expected: bool) -> None:
    assert parse_field_selector(text, resource("pods")).matches(POD) is expected


def test_a_boolean_that_is_not_set_is_false() -> None:
    assert parse_field_selector("spec.unschedulable=false", resource("nodes")).matches({"metadata": {"name": "n"}})


def test_values_may_escape_what_means_something() -> None:
    selector = parse_field_selector(r"metadata.name=a\,b\=c\\d", resource("configmaps"))
    assert selector.terms == (("metadata.name", r"a,b=c\d", True),)


@pytest.mark.parametrize(
    ("text", "plural", "message"),
    [
        ("spec.image=x", "pods", "field label not supported: spec.image"),
        (
            "data.x=1",
            "configmaps",
            '"data.x" is not a known field selector: only "metadata.name", "metadata.namespace"',
        ),
        ("metadata.name", "pods", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
        (r"metadata.name=a\b", "pods", "invalid escape sequence"),
        ("metadata.name=a=b", "pods", "unescaped character in value"),
    ],
)
def test_bad_field_selectors(text: str, plural: str, message: str) -> None:
    with pytest.raises(SelectorError) as refusal:
        parse_field_selector(text, resource(plural))
    assert message in str(refusal.value)


def test_the_name_that_a_selector_demands() -> None:
    assert parse_field_selector("metadata.name=a", resource("pods")).name == "a"
    assert parse_field_selector("metadata.name!=a", resource("pods")).name is None


def test_a_field_below_a_text_is_missing() -> None:
    assert field_value({"spec": "text"}, "spec.color") == ""
