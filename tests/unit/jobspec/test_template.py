"""Markers: from an HCL variable to a place in JSON, and from there to a value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import jobspecs
from core.domain.jobspec import JobSlots
from core.domain.jobspec_template import (
    JobspecError,
    SlotValue,
    declared,
    fill,
    hcl_values,
    mark,
    sentinels,
    slots_in,
)

TYPES = {"who": "string", "size": "number", "zones": "list(string)", "more": "map(string)"}


def test_values_get_the_types_of_their_places() -> None:
    template = {
        "whole": "[[who]]",
        "inside": "job_[[who]]_of_[[size:text]]",
        "number": "[[size]]",
        "as_text": "[[size:text]]",
        "nanoseconds": "[[size:ns]]",
        "list": ["[[zones]]"],
        "listed_text": ["a", "[[who]]"],
        "map": {"[[more]]": "", "own": "[[who]]"},
        "untouched": [1, True, None, 2.5],
    }
    filled = fill(
        template, {"who": "ana", "size": 7, "zones": ("x", "y"), "more": (("k", "v"), ("own", "lost"))}
    )
    assert filled == {
        "whole": "ana",
        "inside": "job_ana_of_7",
        "number": 7,
        "as_text": "7",
        "nanoseconds": 7_000_000_000,
        "list": ["x", "y"],
        "listed_text": ["a", "ana"],
        "map": {"k": "v", "own": "ana"},
        "untouched": [1, True, None, 2.5],
    }


@given(st.text())
def test_a_value_is_data_and_never_looked_at_again(value: str) -> None:
    filled = fill({"a": "[[who]]", "b": "x[[who]]y"}, {"who": value, "size": 1})
    assert filled == {"a": value, "b": f"x{value}y"}


def test_a_value_that_looks_like_a_marker_stays_as_it_is() -> None:
    assert fill({"a": "[[who]]"}, {"who": "[[size]]", "size": 1}) == {"a": "[[size]]"}


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ({"a": "[[stranger]]"}, "asks for stranger, which this release does not know"),
        ({"a": "[[zones]]"}, "slot zones does not fit"),
        ({"a": "x [[more]]"}, "slot more does not fit"),
        ({"a": "[[who:ns]]"}, "slot who does not fit"),
        ({"[[who]]": ""}, "slot who does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(template: dict[str, Any], sentence: str) -> None:
    values: dict[str, SlotValue] = {"who": "ana", "size": 7, "zones": ("x",), "more": (("k", "v"),)}
    with pytest.raises(JobspecError, match=sentence):
        fill(template, values)


def test_mark_finds_every_sentinel_and_drops_what_is_empty() -> None:
    at = sentinels(TYPES)
    size = at["size"]
    assert isinstance(size, int)
    parsed = {
        "ID": "x_[[who]]",
        "Number": size,
        "Duration": size * 1_000_000_000,
        "Meta": {"s": str(size), "kept": ""},
        "Zones": ["[[zones]]"],
        "Env": {"[[more]]": ""},
        "Nothing": None,
        "Empty": "",
        "Count": 0,
        "Flag": False,
    }
    assert mark(parsed, TYPES) == {
        "ID": "x_[[who]]",
        "Number": "[[size]]",
        "Duration": "[[size:ns]]",
        "Meta": {"s": "[[size:text]]", "kept": ""},
        "Zones": ["[[zones]]"],
        "Env": {"[[more]]": ""},
        "Count": 0,
        "Flag": False,
    }


def test_a_variable_that_ends_up_nowhere_is_refused() -> None:
    with pytest.raises(JobspecError, match="variable more is declared and used nowhere"):
        mark({"a": "[[who]]", "b": sentinels(TYPES)["size"], "c": ["[[zones]]"]}, TYPES)


def test_declared_reads_names_and_types_and_refuses_others() -> None:
    source = 'variable "a" {\n  type = string\n}\nvariable "b" {\n  type    = list(string)\n}\n'
    assert declared(source) == {"a": "string", "b": "list(string)"}
    with pytest.raises(JobspecError, match="variable c: begin its block with type"):
        declared(source + 'variable "c" {\n  default = 1\n}\n')


def test_values_as_hcl_escape_what_would_be_an_expression() -> None:
    values: dict[str, SlotValue] = {
        "who": 'a"b ${x} %{y}\n',
        "size": 7,
        "zones": ("x", "${y}"),
        "more": (("k", "v"),),
    }
    assert hcl_values(TYPES, values) == (
        'who = "a\\"b $${x} %%{y}\\n"\nsize = 7\nzones = ["x", "$${y}"]\nmore = {"k" = "v"}\n'
    )


@pytest.mark.parametrize("stem", jobspecs.STEMS)
def test_template_asks_for_exactly_what_the_hcl_declares_and_release_knows(stem: str) -> None:
    template = jobspecs.template(stem)
    assert slots_in(template.job) == declared(template.source).keys()
    assert slots_in(template.job) <= {*JobSlots.__struct_fields__, "spec_hash"}


def test_every_slot_is_used_by_some_jobspec() -> None:
    used = {slot for stem in jobspecs.STEMS for slot in slots_in(jobspecs.template(stem).job)}
    assert used == {*JobSlots.__struct_fields__, "spec_hash"}


PLACES = {
    "waha-plus": {
        "ID": "waha_plus_user_[[user_id]]",
        "Name": "waha_plus_user_[[user_id]]",
        "Namespace": "[[nomad_namespace]]",
        "NodePool": "[[node_pool]]",
        "Datacenters.0": "[[datacenters]]",
        "UI.Description": "WAHA container of `[[owner]]`",
        "UI.Links.0.URL": "[[console_link]]",
        "TaskGroups.0.Disconnect.StopOnClientAfter": "[[stop_on_disconnect_s:ns]]",
        "TaskGroups.0.Services.0.Meta.spec": "[[spec_hash]]",
        "TaskGroups.0.Services.0.Meta.user": "[[user_id]]",
        "TaskGroups.0.Tasks.0.Config.image": "[[image]]",
        "TaskGroups.0.Tasks.0.Config.labels.0.whago.user_id": "[[user_id]]",
        "TaskGroups.0.Tasks.0.Config.network_mode": "[[docker_network]]",
        "TaskGroups.0.Tasks.0.Env.NODE_OPTIONS": "--max-old-space-size=[[node_heap_mb:text]]",
        "TaskGroups.0.Tasks.0.Env.WAHA_API_KEY": "[[api_key_hash]]",
        "TaskGroups.0.Tasks.0.Env.WAHA_NAMESPACE": "[[namespace]]",
        "TaskGroups.0.Tasks.0.Env.WAHA_SESSION_NAMESPACE": "[[namespace]]",
        "TaskGroups.0.Tasks.0.Env.WAHA_WORKER_ID": "[[namespace]]",
        "TaskGroups.0.Tasks.0.Env.WHATSAPP_DEFAULT_ENGINE": "[[engine]]",
        "TaskGroups.0.Tasks.0.Env.WHATSAPP_HOOK_URL": "[[hook_url]]",
        "TaskGroups.0.Tasks.0.Meta.stop_on_disconnect_s": "[[stop_on_disconnect_s:text]]",
        "TaskGroups.0.Tasks.0.Resources.CPU": "[[cpu_mhz]]",
        "TaskGroups.0.Tasks.0.Resources.MemoryMB": "[[memory_mb]]",
        "TaskGroups.0.Tasks.0.Resources.MemoryMaxMB": "[[memory_max_mb]]",
    }
}
PLACES["waha-simulator"] = {
    **{
        place: marker
        for place, marker in PLACES["waha-plus"].items()
        if not any(slot in marker for slot in ("image", "docker_network", "node_heap_mb"))
        and ".labels." not in place
    },
    "UI.Description": "WAHA simulator of `[[owner]]`",
    "TaskGroups.0.Tasks.0.Config.command": "[[simulator_command]]",
    "TaskGroups.0.Tasks.0.Config.args.0": "[[simulator_args]]",
}


@pytest.mark.parametrize("stem", jobspecs.STEMS)
def test_slots_stand_where_expected_and_nowhere_else(stem: str) -> None:
    def places(value: Any, path: str) -> dict[str, str]:
        if isinstance(value, dict):
            parts = [places(v, f"{path}.{k}") for k, v in value.items()]
        elif isinstance(value, list):
            parts = [places(v, f"{path}.{i}") for i, v in enumerate(value)]
        else:
            return {path.removeprefix("."): value} if isinstance(value, str) and "[[" in value else {}
        return {place: text for part in parts for place, text in part.items()}

    job = jobspecs.template(stem).job
    found = places(job, "")
    template_text = found.pop("TaskGroups.0.Tasks.0.Templates.0.EmbeddedTmpl")
    assert template_text.count("[[") == 1
    assert '{{ with nomadVar "nomad/jobs/waha_plus_user_[[user_id]]" }}' in template_text
    assert found == PLACES[stem]
    assert ("[[simulator_env]]" in job["TaskGroups"][0]["Tasks"][0]["Env"]) == (stem == "waha-simulator")
