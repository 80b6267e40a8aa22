"""Rendered jobs on a real Nomad: that it takes them, places them, and changes them as we count on."""

from __future__ import annotations

import copy
import itertools
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from core import jobspecs
from core.clients.jobspec_compiler import JobspecCompiler
from core.domain.jobspec import IN_PLACE, JobSlots, build, hashes, submission
from core.domain.jobspec_template import declared, hcl_values
from core.jobs import WantedJob, wanted_job
from core.settings import Secret
from tests.contract.jobspec.conftest import Nomad, until
from tests.unit.jobspec import samples

SECOND = 1_000_000_000


def without_empty(value: Any, *, free: bool = False) -> Any:
    """A parsed job without the fields that Nomad spells out empty, as templates leave them out."""
    if isinstance(value, dict):
        kept = value if free else {k: v for k, v in value.items() if v is not None and v != ""}
        return {k: without_empty(v, free=free or k in ("Config", "Env", "Meta")) for k, v in kept.items()}
    if isinstance(value, list):
        return [without_empty(item, free=free) for item in value]
    return value


@pytest.mark.parametrize("stem", jobspecs.STEMS)
def test_committed_template_is_what_this_nomad_compiles(nomad: Nomad, stem: str) -> None:
    template = jobspecs.template(stem)
    with JobspecCompiler(nomad.address) as compiler:
        if compiler.nomad_version() != jobspecs.compiled_with(stem):
            pytest.skip(
                f"compiled with Nomad {jobspecs.compiled_with(stem)}, this is {compiler.nomad_version()}"
            )
        assert compiler.compile(template.source) == template.job


@pytest.mark.parametrize("stem", jobspecs.STEMS)
@given(slots=samples.any_slots())
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_filling_the_json_is_the_same_as_giving_nomad_the_variables(
    nomad: Nomad, stem: str, slots: JobSlots
) -> None:
    template = jobspecs.template(stem)
    built = build(template.job, slots)
    with JobspecCompiler(nomad.address) as compiler:
        values = hcl_values(declared(template.source), slots.values(built.hashes.spec))
        parsed = without_empty(compiler.parse(template.source, values))
    assert parsed == without_empty(built.job)


def surprises(warnings: str) -> list[str]:
    """Nomad's warnings other than the one of 2.x about a missing `shutdown_delay`.

    Jobs leave it out on purpose: it keeps the old container alive for longer after a stop, and nobody balances
    requests over the instances of one user.
    """
    told = [line.strip() for line in warnings.splitlines() if line.lstrip().startswith("*")]
    assert bool(told) == bool(warnings), warnings
    return [line for line in told if not line.endswith("have shutdown_delay set")]


@pytest.mark.parametrize("plan", samples.PLANS)
@pytest.mark.parametrize("stem", jobspecs.STEMS)
def test_nomad_validates_and_plans_every_golden_job(nomad: Nomad, stem: str, plan: str) -> None:
    job = wanted_job(jobspecs.template(stem), samples.row(plan), samples.settings(stem)).job
    told = nomad("POST", "/v1/validate/job", {"Job": job})
    assert (told["DriverConfigValidated"], told["Error"], told["ValidationErrors"]) == (True, "", None)
    assert not surprises(told["Warnings"])
    planned = nomad("POST", f"/v1/job/{job['ID']}/plan", {"Job": job, "Diff": True})
    assert not surprises(planned["Warnings"])
    assert planned["Diff"]["Type"] == "Added"
    # Whether there is room is the cluster's matter; that Nomad understood what is asked for is ours.
    failed = (planned["FailedTGAllocs"] or {}).get("waha_plus", {})
    assert set(failed.get("ConstraintFiltered") or {}) <= {
        "missing drivers",
        "${attr.consul.version} semver >= 1.8.0",
    }
    assert not failed.get("DimensionExhausted")


class Registered:
    """One simulator job in which a shell stands for the simulator and writes down what it was given."""

    def __init__(self, nomad: Nomad, folder: Path) -> None:
        self.nomad = nomad
        self.told = folder / "environment"
        self.row = samples.row(user_id=str(uuid.uuid4()))
        # The file is complete before it gets its name.
        script = f"env > {self.told}.new; mv {self.told}.new {self.told}.$NOMAD_ALLOC_ID; exec sleep 600"
        self.settings = samples.settings(
            "waha-simulator", simulator_command="/bin/sh", simulator_args=("-c", script)
        )
        self.id = "waha_plus_user_" + self.row.user_id

    def wanted(self, **changes: Any) -> WantedJob:
        return wanted_job(
            jobspecs.template("waha-simulator"),
            self.row,
            self.settings,
            **{"stop_on_disconnect_s": 60, **changes},
        )

    def write_variables(self, items: dict[str, str]) -> None:
        self.nomad("PUT", f"/v1/var/nomad/jobs/{self.id}", {"Items": items})

    def register(self, job: dict[str, Any], source: dict[str, str] | None = None) -> None:
        told = self.nomad("PUT", "/v1/jobs", {"Job": job, "Submission": source})
        evaluation = told["EvalID"]
        until(
            "the evaluation's end",
            lambda: self.nomad("GET", f"/v1/evaluation/{evaluation}")["Status"] == "complete",
        )

    def running(self) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found: list[dict[str, Any]] = [
                a
                for a in self.nomad("GET", f"/v1/job/{self.id}/allocations")
                if a["DesiredStatus"] == "run" and a["ClientStatus"] == "running"
            ]
            return found[0] if len(found) == 1 else None

        found: dict[str, Any] = until("one running allocation", look, 60)
        return found

    def environment(self, allocation: str) -> dict[str, str]:
        file = Path(f"{self.told}.{allocation}")
        until("the task's environment", file.exists)
        lines = file.read_text("utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def registered(placing: Nomad, tmp_path: Path) -> Registered:
    made = Registered(placing, tmp_path)
    wanted = made.wanted()
    made.write_variables(wanted.variables)
    made.register(wanted.job, wanted.submission)
    return made


def test_a_task_is_told_what_the_jobspec_says(registered: Registered, consul: str) -> None:
    allocation = registered.running()
    env = registered.environment(allocation["ID"])
    # The list of a job's allocations never carries resources; a single allocation does.
    told = registered.nomad("GET", f"/v1/allocation/{allocation['ID']}")
    (port,) = told["AllocatedResources"]["Shared"]["Ports"]
    assert (port["Label"], port["HostIP"]) == ("http", "127.0.0.1")
    assert (env["WHATSAPP_API_PORT"], env["WAHA_SIM_BIND_ADDRESS"]) == (str(port["Value"]), "127.0.0.1")
    assert env["WHATSAPP_HOOK_HMAC_KEY"] == samples.HOOK_KEY
    assert env["WAHA_SIM_STORE_DIR"] == "/srv/simulator-store"
    assert env["WAHA_NAMESPACE"] == samples.NAMESPACE
    assert samples.API_KEY not in env.values()

    stored = registered.nomad("GET", f"/v1/job/{registered.id}")
    group = stored["TaskGroups"][0]
    assert group["Disconnect"]["StopOnClientAfter"] == 60 * SECOND
    assert group["Disconnect"]["LostAfter"] == 0
    assert group["Update"]["MaxParallel"] == 0
    assert registered.nomad("GET", f"/v1/job/{registered.id}/deployments") == []
    shown = registered.nomad("GET", f"/v1/job/{registered.id}/submission?version=0")
    assert shown["Source"] == jobspecs.template("waha-simulator").source
    assert f'user_id = "{registered.row.user_id}"' in shown["Variables"]
    for secret in (samples.HOOK_KEY, samples.API_KEY, "/srv/simulator-store"):
        assert secret not in str(stored)
        assert secret not in str(shown)

    import httpx

    def entry() -> dict[str, Any] | None:
        answer = httpx.get(f"http://{consul}/v1/catalog/service/waha-plus", trust_env=False).json()
        found = [e for e in answer if e["ServiceMeta"]["allocation"] == allocation["ID"]]
        return found[0] if found else None

    listed = until("the service in Consul", entry)
    assert (listed["ServiceAddress"], listed["ServicePort"]) == ("127.0.0.1", port["Value"])
    assert listed["ServiceMeta"]["user"] == registered.row.user_id
    assert listed["ServiceMeta"]["spec"] == registered.wanted().hashes.spec


CHANGES: dict[tuple[str, str], Any] = {
    ("job", "Affinities"): [{"LTarget": "${node.class}", "RTarget": "x", "Operand": "=", "Weight": 50}],
    ("job", "Constraints"): [{"LTarget": "${attr.kernel.name}", "RTarget": "linux", "Operand": "="}],
    ("job", "Priority"): 60,
    ("job", "Spreads"): [{"Attribute": "${node.datacenter}", "Weight": 50}],
    ("job", "UI"): {"Description": "other"},
    ("job", "Update"): {"MaxParallel": 1},
    ("job", "Meta"): {"a": "b"},
    ("group", "Affinities"): [{"LTarget": "${node.class}", "RTarget": "x", "Operand": "=", "Weight": 50}],
    ("group", "Constraints"): [{"LTarget": "${attr.kernel.name}", "RTarget": "linux", "Operand": "="}],
    ("group", "Disconnect"): {"StopOnClientAfter": 90 * SECOND},
    ("group", "Migrate"): {
        "MaxParallel": 1,
        "HealthCheck": "checks",
        "MinHealthyTime": 5 * SECOND,
        "HealthyDeadline": 300 * SECOND,
    },
    ("group", "ReschedulePolicy"): {
        "Delay": 20 * SECOND,
        "DelayFunction": "constant",
        "MaxDelay": 300 * SECOND,
        "Unlimited": True,
    },
    ("group", "RestartPolicy"): {"Attempts": 4, "Interval": 300 * SECOND, "Delay": SECOND, "Mode": "fail"},
    ("group", "Services"): [{"Name": "waha-other", "Provider": "consul", "PortLabel": "http", "Tags": ["x"]}],
    ("group", "ShutdownDelay"): SECOND,
    ("group", "Spreads"): [{"Attribute": "${node.datacenter}", "Weight": 50}],
    ("group", "Update"): {"MaxParallel": 1},
    ("group", "Meta"): {"a": "b"},
    ("group", "EphemeralDisk"): {"SizeMB": 40},
    ("group", "Networks"): [{"DynamicPorts": [{"Label": "http", "To": 3000}]}],
    ("task", "Affinities"): [{"LTarget": "${node.class}", "RTarget": "x", "Operand": "=", "Weight": 50}],
    ("task", "Constraints"): [{"LTarget": "${attr.kernel.name}", "RTarget": "linux", "Operand": "="}],
    ("task", "KillSignal"): "SIGINT",
    ("task", "KillTimeout"): 44 * SECOND,
    ("task", "Leader"): True,
    ("task", "LogConfig"): {"MaxFiles": 1, "MaxFileSizeMB": 4},
    ("task", "RestartPolicy"): {"Attempts": 5, "Interval": 600 * SECOND, "Delay": SECOND, "Mode": "fail"},
    ("task", "Services"): [{"Name": "waha-task", "Provider": "consul", "PortLabel": "http"}],
    ("task", "ShutdownDelay"): SECOND,
    ("task", "Config"): {"command": "/bin/sleep", "args": ["300"]},
    ("task", "Env"): {"TZ": "America/Sao_Paulo"},
    ("task", "Meta"): {"stop_on_disconnect_s": "90"},
    ("task", "Resources"): {"CPU": 200, "MemoryMB": 300, "MemoryMaxMB": 2048},
    ("task", "Templates"): [],
    ("task", "User"): "nobody",
}


def _changed(job: dict[str, Any], kind: str, field: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(job)
    group = changed["TaskGroups"][0]
    {"job": changed, "group": group, "task": group["Tasks"][0]}[kind][field] = value
    return changed


def test_every_in_place_field_is_tried() -> None:
    assert {(kind, field) for kind, fields in IN_PLACE.items() for field in fields} <= CHANGES.keys()


def test_nomad_agrees_on_what_is_in_place(registered: Registered) -> None:
    registered.running()
    job = registered.wanted().job
    wrong = {}
    cases = [*CHANGES.items()]
    for part, (field, inner) in itertools.product(
        ("group", "task"), (("RestartPolicy", "RenderTemplates"), ("LogConfig", "Disabled"))
    ):
        if (part, field) != ("group", "LogConfig"):
            policy = {"Attempts": 3, "Interval": 300 * SECOND, "Delay": SECOND, "Mode": "fail"}
            base = policy if field == "RestartPolicy" else {"MaxFiles": 2, "MaxFileSizeMB": 5}
            cases.append(((part, field), {**base, inner: True}))
    template = jobspecs.template("waha-simulator").job
    before = hashes(template, samples.slots()).restart
    for (kind, field), value in cases:
        changed = _changed(job, kind, field, value)
        told = registered.nomad("POST", f"/v1/job/{registered.id}/plan", {"Job": changed, "Diff": False})
        update = told["Annotations"]["DesiredTGUpdates"]["waha_plus"]
        in_place = update["InPlaceUpdate"] == 1 and update["DestructiveUpdate"] == 0
        destructive = update["InPlaceUpdate"] == 0 and update["DestructiveUpdate"] == 1
        assert in_place or destructive, (kind, field, update, told["FailedTGAllocs"])
        counted = hashes(_changed(template, kind, field, value), samples.slots()).restart != before
        if counted != destructive:
            wrong[kind, field] = update
    assert wrong == {}


def test_an_in_place_register_keeps_the_container_and_a_restarting_one_does_not(
    registered: Registered,
) -> None:
    first = registered.running()
    before = registered.wanted()

    # Somebody changed the e-mail address: the UI and the spec hash in service meta.
    registered.row = samples.row(user_id=registered.row.user_id, email="new@whago.com")
    renamed = registered.wanted()
    assert renamed.hashes.restart == before.hashes.restart
    assert renamed.hashes.spec != before.hashes.spec
    registered.register(renamed.job, renamed.submission)
    same = registered.running()
    assert same["ID"] == first["ID"]
    assert same["JobVersion"] == first["JobVersion"] + 1

    # Another S needs a container that knows it.
    slower = registered.wanted(stop_on_disconnect_s=120)
    assert slower.hashes.restart != renamed.hashes.restart
    registered.register(slower.job, slower.submission)
    until("the old allocation's end", lambda: _ended(registered, first["ID"]))
    second = registered.running()
    assert second["ID"] != first["ID"]
    told = registered.nomad("GET", f"/v1/allocation/{second['ID']}")
    assert told["PreviousAllocation"] == first["ID"]  # so Nomad started it only after the first had ended


def _ended(registered: Registered, allocation: str) -> bool:
    status: str = registered.nomad("GET", f"/v1/allocation/{allocation}")["ClientStatus"]
    return status == "complete"


def test_new_secrets_restart_the_task_in_place(registered: Registered) -> None:
    allocation = registered.running()
    registered.environment(allocation["ID"])
    odd = "a\"b $x \\ 'q' #é %41"
    registered.write_variables({**registered.wanted().variables, "hook_key": odd})
    until(
        "a restart",
        lambda: registered.nomad("GET", f"/v1/allocation/{allocation['ID']}")["TaskStates"]["waha_plus"][
            "Restarts"
        ],
        45,
    )
    assert registered.running()["ID"] == allocation["ID"]
    until(
        "the new secret",
        lambda: registered.environment(allocation["ID"])["WHATSAPP_HOOK_HMAC_KEY"] == odd,
    )


def test_a_missing_secret_keeps_the_task_from_starting(placing: Nomad, tmp_path: Path) -> None:
    made = Registered(placing, tmp_path)
    wanted = made.wanted()
    made.write_variables({"hook_key": wanted.variables["hook_key"]})
    made.register(wanted.job)

    def state() -> Any:
        found = placing("GET", f"/v1/job/{made.id}/allocations")
        states = (found[0]["TaskStates"] or {}).get("waha_plus") if found else None
        return states if states and len(states["Events"]) > 1 else None

    events = until("the task's first events", state)["Events"]
    assert "Started" not in {event["Type"] for event in events}
    assert not list(tmp_path.iterdir())


def test_what_the_ui_shows_can_be_registered_again(registered: Registered) -> None:
    """`Edit` in the Nomad UI parses the source with the variables and registers the result."""
    built = registered.wanted()
    sent = submission(jobspecs.template("waha-simulator").source, _slots(registered), built.hashes.spec)
    with JobspecCompiler(registered.nomad.address) as compiler:
        again = without_empty(compiler.parse(sent["Source"], sent["Variables"]))
    assert again == without_empty(built.job)


def _slots(registered: Registered) -> JobSlots:
    from core.jobs import slots_for

    assert isinstance(registered.settings.storage_dsn, Secret)
    return slots_for(registered.row, registered.settings)
