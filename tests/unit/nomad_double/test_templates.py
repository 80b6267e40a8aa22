"""Templates: the supported construct, and refusal of everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.nomad_double.templates import TemplateError, parse_env, parse_template

ITEMS = {"key": "abc", "other": 'a "b"\n$c'}


def rendered(source: str) -> str | None:
    return parse_template(source).render(lambda path: ITEMS if path == "nomad/jobs/x" else None)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('{{with nomadVar "nomad/jobs/x"}}K={{.key}}{{end}}', "K=abc"),
        ('A=1\n{{ with nomadVar "nomad/jobs/x" }}\nK={{ .key }}\n{{ end }}\nB=2\n', "A=1\n\nK=abc\n\nB=2\n"),
        ('A=1\n{{- with nomadVar "nomad/jobs/x" -}}\n\nK={{ .key }}\n{{- end }}\n', "A=1K=abc\n"),
        ('{{ with nomadVar "nomad/jobs/x" }}K={{ .other | toJSON }}{{ end }}', 'K="a \\"b\\"\\n$c"'),
        ('{{/* why */}}{{ with nomadVar "nomad/jobs/x" }}{{ .key }}{{ .key }}{{ end }}', "abcabc"),
        ('{{ with nomadVar "nomad/jobs/x" }}{{ .missing }}{{ end }}', "<no value>"),
        ("PLAIN=1", "PLAIN=1"),
        ("", ""),
    ],
)
def test_rendering(source: str, text: str) -> None:
    assert rendered(source) == text


def test_a_missing_variable_renders_nothing_yet() -> None:
    template = parse_template('{{ with nomadVar "nomad/jobs/y" }}{{ .key }}{{ end }}')
    assert template.paths == ("nomad/jobs/y",)
    assert template.render(lambda path: None) is None


@pytest.mark.parametrize(
    "source",
    [
        '{{ key "consul/key" }}',
        "{{ range nomadVarList }}{{ .Path }}{{ end }}",
        '{{ with nomadVar "x" }}{{ if .key }}a{{ end }}{{ end }}',
        '{{ with nomadVar "x" }}{{ .key | base64Decode }}{{ end }}',
        '{{ with nomadVar "x" }}{{ .key }}',
        "{{ .key }}",
        "{{ end }}",
        '{{ with secret "x" }}{{ end }}',
    ],
)
def test_everything_else_is_refused(source: str) -> None:
    with pytest.raises(TemplateError):
        parse_template(source)


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), st.text()))
def test_json_values_survive_the_way_through_an_env_file(values: dict[str, str]) -> None:
    lines = "".join(f"{key}={{{{ .{key} | toJSON }}}}\n" for key in values)
    source = f'{{{{ with nomadVar "v" }}}}{lines}{{{{ end }}}}'
    text = parse_template(source).render(lambda path: values)
    assert text is not None
    assert parse_env(text) == values


def test_env_files() -> None:
    assert parse_env("# no\n\nA=1\n export B = 'x y' \nC=\"q\"\n") == {"A": "1", "B": "x y", "C": "q"}
    with pytest.raises(TemplateError):
        parse_env("no assignment")
