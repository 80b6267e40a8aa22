"""What `wahafleet up` chooses from options and programs, and what it refuses."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.up.errors import SandboxError
from sandbox.up.plan import Driver, Egress, Kind, Options, Program, Simulators, make_plan, real_ports

NOMAD = Program("/bin/nomad", (1, 10, 5))
OLD_NOMAD = Program("/bin/nomad", (1, 10, 1))
CONSUL = Program("/bin/consul", (1, 8, 7))


def test_without_programs_doubles_run() -> None:
    plan = make_plan(Options(), None, None)
    assert (plan.nomad, plan.consul, plan.driver, plan.jobspec) == (
        None,
        None,
        Driver.RAW_EXEC,
        "waha-simulator",
    )
    assert plan.notes == ()


def test_a_consul_alone_is_used_with_the_nomad_double() -> None:
    plan = make_plan(Options(), None, CONSUL)
    assert (plan.nomad, plan.consul) == (None, CONSUL)


def test_both_programs_are_used_together() -> None:
    plan = make_plan(Options(), NOMAD, CONSUL)
    assert (plan.nomad, plan.consul) == (NOMAD, CONSUL)


def test_a_nomad_without_a_consul_gives_way_and_says_so() -> None:
    plan = make_plan(Options(), NOMAD, None)
    assert plan.nomad is None
    assert len(plan.notes) == 1
    assert "Consul" in plan.notes[0]


def test_an_old_nomad_gives_way_and_says_so() -> None:
    plan = make_plan(Options(), OLD_NOMAD, CONSUL)
    assert plan.nomad is None
    assert "1.10.1" in plan.notes[0]


def test_docker_runs_on_real_agents_alone() -> None:
    options = Options(driver=Driver.DOCKER, storage_dsn="postgresql://db/waha")
    assert make_plan(options, NOMAD, CONSUL).jobspec == "waha-plus"


def test_hosts_of_a_real_nomad_have_ranges_of_ports_that_do_not_meet() -> None:
    assert make_plan(Options(hosts=3), NOMAD, CONSUL).hosts == 3
    assert [real_ports((3100, 3199), number) for number in (1, 2, 3)] == [
        (3100, 3199),
        (3200, 3299),
        (3300, 3399),
    ]
    # Hosts of the double have an address each.
    assert make_plan(Options(hosts=3, ports=(65_000, 65_299)), None, None).ports == (65_000, 65_299)


def test_chips_leave_through_guards_wherever_guards_can_be() -> None:
    assert make_plan(Options(hosts=20), None, None).egress is Egress.GUARD
    assert make_plan(Options(), NOMAD, CONSUL).egress is Egress.GUARD
    assert make_plan(Options(egress=Egress.DIRECT), None, None).egress is Egress.DIRECT
    several = make_plan(Options(hosts=2), NOMAD, CONSUL)
    assert several.egress is Egress.DIRECT
    assert "share one address" in several.notes[0]
    docker = make_plan(Options(driver=Driver.DOCKER, storage_dsn="postgresql://db/waha"), NOMAD, CONSUL)
    assert docker.egress is Egress.DIRECT
    assert "Docker" in docker.notes[0]
    assert make_plan(Options(hosts=2, egress=Egress.DIRECT), NOMAD, CONSUL).notes == ()


@pytest.mark.parametrize(
    ("options", "nomad", "consul", "words"),
    [
        (Options(nomad=Kind.REAL), None, CONSUL, "PATH"),
        (Options(consul=Kind.REAL), None, None, "PATH"),
        (Options(nomad=Kind.REAL), NOMAD, None, "Consul double"),
        (Options(nomad=Kind.REAL, consul=Kind.DOUBLE), NOMAD, CONSUL, "Consul double"),
        (Options(nomad=Kind.REAL), OLD_NOMAD, CONSUL, "too old"),
        (Options(driver=Driver.DOCKER), None, None, "--driver raw_exec"),
        (Options(driver=Driver.DOCKER, nomad=Kind.DOUBLE), NOMAD, CONSUL, "--driver raw_exec"),
        (Options(driver=Driver.DOCKER), NOMAD, CONSUL, "WAHAFLEET_STORAGE_DSN"),
        (Options(hosts=21), NOMAD, CONSUL, "--nomad double"),
        (Options(hosts=3, ports=(65_000, 65_299)), NOMAD, CONSUL, "--ports"),
        (Options(simulators=Simulators.INLINE), NOMAD, CONSUL, "--nomad double"),
        (Options(hosts=3, egress=Egress.GUARD), NOMAD, CONSUL, "--egress direct"),
        (
            Options(driver=Driver.DOCKER, storage_dsn="postgresql://db/waha", egress=Egress.GUARD),
            NOMAD,
            CONSUL,
            "--egress direct",
        ),
        (Options(hosts=0), None, None, "--hosts"),
        (Options(hosts=255), None, None, "--hosts"),
        (Options(speed=0), None, None, "--speed"),
        (Options(speed=float("nan")), None, None, "--speed"),
    ],
)
def test_refusals_are_one_sentence_with_a_way_out(
    options: Options, nomad: Program | None, consul: Program | None, words: str
) -> None:
    with pytest.raises(SandboxError) as refused:
        make_plan(options, nomad, consul)
    sentence = str(refused.value)
    assert words in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")


@given(
    options=st.builds(
        Options,
        nomad=st.sampled_from(Kind),
        consul=st.sampled_from(Kind),
        driver=st.sampled_from(Driver),
        hosts=st.integers(-1, 300),
        simulators=st.sampled_from(Simulators),
        speed=st.floats(),
        storage_dsn=st.sampled_from(["", "postgresql://db/waha"]),
        egress=st.sampled_from(Egress),
    ),
    nomad=st.sampled_from([None, NOMAD, OLD_NOMAD, Program("/bin/nomad")]),
    consul=st.sampled_from([None, CONSUL]),
)
def test_a_plan_is_always_a_pair_that_works(
    options: Options, nomad: Program | None, consul: Program | None
) -> None:
    try:
        plan = make_plan(options, nomad, consul)
    except SandboxError:
        return
    assert plan.nomad is None or plan.consul is not None
    assert plan.nomad is None or plan.nomad.version >= (1, 10, 2)
    assert plan.nomad is None or real_ports(plan.ports, plan.hosts)[1] <= 65_535
    assert plan.driver is not Driver.AUTO
    assert plan.simulators is not Simulators.AUTO
    assert plan.driver is not Driver.DOCKER or plan.nomad is not None
    # What was asked for in so many words is never quietly replaced.
    assert options.nomad is not Kind.REAL or plan.nomad is not None
    assert options.nomad is not Kind.DOUBLE or plan.nomad is None
    assert options.consul is not Kind.REAL or plan.consul is not None
    assert options.consul is not Kind.DOUBLE or plan.consul is None
    assert plan.egress is not Egress.AUTO
    assert options.egress is Egress.AUTO or plan.egress is options.egress
    assert plan.egress is Egress.DIRECT or plan.nomad is None or plan.hosts == 1
    assert make_plan(options, nomad, consul) == msgspec.structs.replace(plan)
