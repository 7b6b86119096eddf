"""The inventory file: what it may say, what it means, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute_ssh.errors import FileError, NoMatchError, UsageError
from distribute_ssh.model import inventory
from distribute_ssh.model.address import Address, expand, parse_address, parse_storage
from distribute_ssh.model.inventory import Inventory, NodeEntry, default, find, read
from distribute_ssh.model.names import check_name
from distribute_ssh.model.settings import Places

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "inventory"
PLACES = Places.of({}, Path("/home/ana"))


def written(tmp_path: Path, text: str) -> Inventory:
    file = tmp_path / "inventory.yaml"
    file.write_text(text)
    return read(file, PLACES)


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(FileError) as caught:
        written(tmp_path, text)
    return str(caught.value)


# --- what it may say ---


def test_one_line_is_an_inventory(tmp_path: Path) -> None:
    found = written(tmp_path, "nodes: [lab1, lab2, lab3]")
    assert [(node.name, node.host, node.connection, node.slots) for node in found.nodes] == [
        ("lab1", "lab1", "ssh", 1),
        ("lab2", "lab2", "ssh", 1),
        ("lab3", "lab3", "ssh", 1),
    ]
    assert found.storage == str(PLACES.storage)
    assert found.lost_after == 900
    assert found.source == tmp_path / "inventory.yaml"
    assert found.warnings == ()


def test_a_node_may_say_everything_about_itself(tmp_path: Path) -> None:
    text = """
    nodes:
      - {name: lab3, host: lab3.campus.edu, user: distribute, port: 2222, slots: 2, scratch: ~/work, cores: 16,
         memory: 64G, gpus: 1, python: python3.12, identity: keys/lab, capabilities: [openfoam, a, a],
         env: {HTTP_PROXY: "", OMP_PROC_BIND: close}, max_pause: 1h30m, enabled: false, reason: "moves out, on Monday"}
    """
    (node,) = written(tmp_path, text).nodes
    assert node == NodeEntry(
        name="lab3",
        host="lab3.campus.edu",
        user="distribute",
        port=2222,
        identity=str(tmp_path / "keys/lab"),
        slots=2,
        scratch="~/work",
        capabilities=("a", "openfoam"),
        cores=16,
        memory_mb=65536,
        gpus=1,
        python="python3.12",
        env={"HTTP_PROXY": "", "OMP_PROC_BIND": "close"},
        max_pause=5400.0,
        enabled=False,
        reason="moves out, on Monday",
    )


def test_a_node_makes_way_for_its_owner_as_it_says(tmp_path: Path) -> None:
    text = """
    defaults: {owner: {pause_when_active: 10m, move_after: 2h}, hours: [nights, weekends], gentle: {nice: 10}}
    nodes:
      desk:
      own:
        owner: {move_after: never, watch: [/dev/pedal], ignore: [cpu]}
        hours: always
        gentle: {ionice: idle, cores: 8}
    """
    desk, own = written(tmp_path, text).nodes
    assert (desk.pause_when_active, desk.move_after, desk.watch) == (600, 7200, ())
    assert (desk.hours, desk.nice, desk.ionice, desk.core_cap) == ("nights, weekends", 10, None, None)
    assert (own.pause_when_active, own.move_after, own.watch, own.ignore) == (600, 0, ("/dev/pedal",), ("cpu",))
    assert (own.hours, own.nice, own.ionice, own.core_cap) == ("always", 10, "idle", 8)
    nobody = NodeEntry("lab1")
    assert (nobody.pause_when_active, nobody.move_after, nobody.hours, nobody.nice) == (0, 0, None, 0)


def test_a_list_of_gpus_says_which_of_them(tmp_path: Path) -> None:
    nodes = written(tmp_path, "nodes: {a: {gpus: [1, 3]}, b: {gpus: []}, c: {gpus: 0}, d: }").nodes
    assert [node.gpus for node in nodes] == [(1, 3), (), 0, None]


def test_nodes_may_be_a_mapping_of_name_to_settings(tmp_path: Path) -> None:
    nodes = written(tmp_path, "nodes:\n  lab1:\n  lab2: {slots: 2}\n  ana@lab3:2222: {cores: 4}\n").nodes
    assert nodes == (
        NodeEntry("lab1"),
        NodeEntry("lab2", slots=2),
        NodeEntry("lab3", user="ana", port=2222, cores=4),
    )


def test_an_address_names_its_node_by_the_host(tmp_path: Path) -> None:
    nodes = written(tmp_path, "nodes: [ana@lab1.edu:2222, {host: bob@lab2}, {name: v6, host: 'c@[fe80::1]:22'}]").nodes
    assert [(node.name, node.host, node.user, node.port) for node in nodes] == [
        ("lab1.edu", "lab1.edu", "ana", 2222),
        ("lab2", "lab2", "bob", None),
        ("v6", "fe80::1", "c", 22),
    ]


def test_a_range_stands_for_each_of_its_nodes_with_the_same_settings(tmp_path: Path) -> None:
    text = "nodes:\n- lab[08:10]\n- {name: 'gpu[1-2]', host: 'ana@10.0.0.[7-8]', slots: 2}\n"
    nodes = written(tmp_path, text).nodes
    assert [(node.name, node.host, node.slots) for node in nodes] == [
        ("lab08", "lab08", 1),
        ("lab09", "lab09", 1),
        ("lab10", "lab10", 1),
        ("gpu1", "10.0.0.7", 2),
        ("gpu2", "10.0.0.8", 2),
    ]


def test_the_nearer_setting_wins_while_capabilities_and_environment_add_up() -> None:
    found = read(FIXTURES / "groups.yaml", PLACES)
    assert found.node("plain") == NodeEntry(
        "plain",
        user="distribute",
        slots=2,
        capabilities=("site",),
        env={"LANG": "C.UTF-8", "http_proxy": "http://proxy:3128"},
    )
    own = found.node("own")
    assert (own.user, own.slots, own.capabilities) == ("ana", 1, ("gpu", "site"))
    assert own.env == {"LANG": "C.UTF-8", "http_proxy": ""}
    desks = [node for node in found.nodes if node.name.startswith("desk")]
    assert [(node.name, node.slots, node.scratch) for node in desks] == [
        ("desk08", 3, "/scratch"),
        ("desk09", 3, "/scratch"),
        ("desk10", 3, "/scratch"),
        ("desk11", 4, "/scratch"),
    ]
    assert desks[0].capabilities == ("desk", "site")
    assert [node.name for node in found.nodes[-2:]] == ["far1.campus.edu", "far2.campus.edu"]


def test_the_nodes_file_of_the_original_tool_loads_with_one_word_about_its_ports() -> None:
    found = read(FIXTURES / "distribute-nodes.yaml", PLACES)
    assert [(node.name, node.host, node.port) for node in found.nodes] == [
        ("flow-1", "192.168.7.21", None),
        ("flow-2", "192.168.7.22", None),
        ("flow-3", "fd00:7::23", None),
    ]
    assert found.nodes[0].capabilities == ("apptainer", "gfortran", "gpu", "python3")
    assert found.warnings == ("the ports of the original tool are ignored: nodes are reached over ssh",)


def test_an_inventory_may_be_without_nodes_but_not_without_the_key(tmp_path: Path) -> None:
    assert written(tmp_path, "nodes: []").nodes == ()
    assert written(tmp_path, "nodes:").nodes == ()
    assert "lacks the key `nodes`; add `nodes: [lab1, lab2]`" in problems(tmp_path, "storage: /srv")


def test_this_machine_is_a_node_without_ssh_whatever_the_defaults_say_of_ssh(tmp_path: Path) -> None:
    (node,) = written(tmp_path, "defaults: {user: x, port: 5, slots: 3}\nnodes: {here: {connection: local}}").nodes
    assert node == NodeEntry("here", connection="local", slots=3)


@pytest.mark.parametrize(
    ("text", "storage"),
    [
        ("storage: /srv/archive", "/srv/archive"),
        ("storage: results/here", "{folder}/results/here"),
        ("storage: sftp://vault/tank/distribute/", "sftp://vault/tank/distribute"),
        ("storage: sftp://ana@vault:2222/tank", "sftp://ana@vault:2222/tank"),
    ],
)
def test_storage_is_a_folder_or_another_machine(tmp_path: Path, text: str, storage: str) -> None:
    assert written(tmp_path, f"{text}\nnodes: [a]").storage == storage.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("vault:/tank/results", "sftp://vault/tank/results"),
        ("ana@vault:results", "sftp://ana@vault/results"),
        ("s3://bucket/x", "sftp://user@host/path"),
        ("sftp://vault", "absolute path"),
        ("sftp://vault/", "absolute path"),
        ("sftp://vault/~/results", "absolute path"),
        ("sftp:///results", "not an address"),
        ("sftp://ana:secret@vault/results", "password"),
        ("~nobody-of-that-name/results", "home folder"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_with_what_to_write(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy) as caught:
        parse_storage(text, Path("/"))
    assert "secret" not in str(caught.value)


def test_another_ssh_config_lies_beside_the_inventory_and_the_environment_wins_over_it(tmp_path: Path) -> None:
    (tmp_path / "ssh_lab").write_text("Host lab1\n")
    text = "ssh_config: ssh_lab\nnodes: [lab1]"
    assert written(tmp_path, text).ssh_config == tmp_path / "ssh_lab"
    places = Places.of({"DISTRIBUTE_SSH_CONFIG": "/elsewhere"}, Path("/home/ana"))
    assert read(tmp_path / "inventory.yaml", places).ssh_config == Path("/elsewhere")


def test_times_and_probes_are_read(tmp_path: Path) -> None:
    text = "lost_after: 1h30m\nprobes: {openfoam: command -v simpleFoam}\nnodes: [a]"
    found = written(tmp_path, text)
    assert found.lost_after == 5400
    assert found.probes == {"openfoam": "command -v simpleFoam"}


# --- what is refused ---


def test_every_mistake_of_a_file_is_told_at_once_with_its_place_and_remedy() -> None:
    with pytest.raises(FileError) as caught:
        read(FIXTURES / "broken.yaml", PLACES)
    lines = [line.removeprefix(str(FIXTURES)) for line in str(caught.value).splitlines()]
    expected = [
        "/broken.yaml:1:1: storag: is not a key known here; did you mean `storage`?",
        "/broken.yaml:2:13: lost_after: `15:00` can be read in two ways",
        "/broken.yaml:3:13: ssh_config: there is no file",
        "/broken.yaml:5:3: probes.'two words': a capability is one word",
        "/broken.yaml:6:3: probes.mpi: is looked for on every node anyway",
        "/broken.yaml:7:12: probes.openfoam: has no value",
        "/broken.yaml:9:10: defaults.slots: must be a whole number from 1 to 1000, not 0",
        "/broken.yaml:10:3: defaults.name: is not a key known here",
        "/broken.yaml:13:5: nodes[1]: there is a node 'lab1' already",
        "/broken.yaml:14:12: nodes[2].name: `bad;name` is not an address",
        "/broken.yaml:15:24: nodes[3].host: `-oProxyCommand=x` is not an address",
        "/broken.yaml:16:24: nodes[4].port: must be a whole number from 1 to 65535",
        "/broken.yaml:16:39: nodes[4].memory: `64` is less than a mebibyte: write 64G",
        "/broken.yaml:16:49: nodes[4].gpus: names a GPU twice",
        "/broken.yaml:16:66: nodes[4].scratch: `work` is not a folder on the node",
        "/broken.yaml:17:18: nodes[5].cpus: is not a key known here; write `cores:`",
        "/broken.yaml:17:27: nodes[5].capabilites: is not a key known here; did you mean `capabilities`?",
        "/broken.yaml:18:5: nodes[6]: lacks the key `name`; add `name:`",
        "/broken.yaml:19:30: nodes[7].host: stands for 3 machines, and the name for 2",
        "/broken.yaml:20:5: nodes[8]: the range [9-7] in `lab[9-7]` runs backwards",
        "/broken.yaml:21:43: nodes[9].user: means nothing with `connection: local`; remove it",
        "/broken.yaml:22:25: nodes[10].host: is the same machine, user and scratch folder as the node 'lab1'",
        "/broken.yaml:23:37: nodes[11].port: may be the port of the original tool",
        "/broken.yaml:24:21: nodes[12].env.1X: cannot name an environment variable",
        "/broken.yaml:24:28: nodes[12].env.DISTRIBUTE_JOB: variables that begin with DISTRIBUTE_ are ours",
        "/broken.yaml:24:51: nodes[12].env.OK: must be one line",
    ]
    assert len(lines) == len(expected)
    for line, begin in zip(lines, expected, strict=True):
        assert line.startswith(begin)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes: lab1", "write it as a list: [lab1]"),
        ("nodes: [[lab1]]", "must be a mapping"),
        ("nodes: [lab 1]", "`lab 1` is not an address"),
        ("nodes: ['fe80::1']", "give it a `name:`"),
        ("nodes: [lab1..campus]", "cannot hold '..'"),
        ("nodes: ['lab[1-2000]']", "longer than 1000"),
        ("nodes: {a: {name: b}}", "nodes.a.name: is not a key known here"),
        ("nodes: [{name: a, connection: telnet}]", "must be one of ssh, local"),
        ("nodes: [{name: a, slots: 2.5}]", "must be a whole number"),
        ("nodes: [{name: a, capabilities: gpu}]", "write it as a list: [gpu]"),
        ("nodes: [{name: a, ip: 10.0.0.1, host: b}]", "says the same as `host:`"),
        ("nodes: [{name: a, python: python3 -u}]", "is not a python"),
        ("nodes: [{name: a, user: 'ana; reboot'}]", "cannot be a user's name"),
        ("nodes: [{name: a, tenants: [ana]}]", "nodes[0].tenants: is not a key known here"),
        ("groups: {desks: {hosts: [a]}}", "groups.desks.hosts: is not a key known here; write `nodes:`"),
        ("nodes: [{name: a, connection: local}, {name: b, connection: local}]", "same machine, user and scratch"),
        ("- lab1", "must be a mapping"),
        ("lost_after: 0\nnodes: [a]", "no time to wait"),
        ("nodes: [{name: a, owner: {pause_when_active: 0}}]", "write 10m, or never"),
        ("nodes: [{name: a, owner: {pause_when_idle: 10m}}]", "did you mean `pause_when_active`?"),
        ("nodes: [{name: a, owner: {watch: [dev/pedal]}}]", "write an absolute path"),
        ("nodes: [{name: a, owner: {ignore: [load]}}]", "must be one of tty, session, screen, watch, cpu, gpu"),
        ("nodes: [{name: a, hours: night}]", "write nights, weekends, not office, or days and times"),
        ("nodes: [{name: a, hours: [nights, not always]}]", "leaves no time in which a job could run"),
        ("nodes: [{name: a, hours: [not nights, not 07:00-19:00]}]", "leaves no time in which a job could run"),
        ("nodes: [{name: a, gentle: {nice: -5}}]", "from 0 to 19"),
        ("nodes: [{name: a, gentle: {ionice: realtime}}]", "must be one of idle, best-effort"),
    ],
)
def test_a_wrong_line_is_answered_with_what_would_be_right(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(tmp_path, text)


def test_two_entries_for_one_machine_need_scratch_folders_of_their_own(tmp_path: Path) -> None:
    text = "nodes: [{name: a, connection: local, scratch: /a}, {name: b, connection: local, scratch: /b}]"
    assert len(written(tmp_path, text).nodes) == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path} cannot be read")):
        read(tmp_path, PLACES)


# --- addresses and ranges ---


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("lab1", Address("lab1")),
        ("ana@lab1", Address("lab1", "ana")),
        ("ana@campus.edu@lab1:22", Address("lab1", "ana@campus.edu", 22)),
        ("fe80::1%eth0", Address("fe80::1%eth0")),
        ("[::1]:2222", Address("::1", None, 2222)),
    ],
)
def test_an_address_is_user_host_and_port(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "@lab1", "-v@lab1", "-lab1", "lab1:", "lab1:0", "lab1:65536", "lab1:x", "a b", "$(id)", "a`id`", "a\n"]
)
def test_what_ssh_or_a_shell_could_take_for_something_else_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lab1", ["lab1"]),
        ("lab[1,4-6]", ["lab1", "lab4", "lab5", "lab6"]),
        ("lab[098-101]", ["lab098", "lab099", "lab100", "lab101"]),
        ("r[1-2]n[1:2].edu", ["r1n1.edu", "r1n2.edu", "r2n1.edu", "r2n2.edu"]),
        ("[::1]", ["[::1]"]),
    ],
)
def test_a_range_expands_in_order_and_keeps_leading_zeros(text: str, names: list[str]) -> None:
    assert expand(text) == names


def test_ranges_that_multiply_beyond_measure_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 1000 names"):
        expand("a[0-999]b[0-999]c[0-999]d[0-999]")


@given(st.text(max_size=40))
def test_whatever_passes_as_an_address_holds_nothing_a_shell_would_act_on(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    for part in (address.host, address.user or "u"):
        assert not part.startswith("-")
        assert not set(part) & set(" \t\n'\"`$;|&<>(){}[]*?!#~")


# --- which one, and looking into it ---


def test_a_node_is_found_whatever_its_case_and_a_wrong_name_is_answered_with_the_right_ones() -> None:
    found = read(FIXTURES / "groups.yaml", PLACES)
    assert found.node("DESK08").name == "desk08"
    with pytest.raises(NoMatchError) as caught:
        found.node("desk8")
    assert "did you mean desk08?" in str(caught.value)
    assert "plain, own, desk08" in str(caught.value)
    assert caught.value.exit_code == 3


def test_without_an_inventory_this_machine_is_the_only_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "desk7.campus.edu")
    found = default(PLACES)
    assert found.nodes == (NodeEntry("desk7", connection="local"),)
    assert found.storage == str(PLACES.storage)
    monkeypatch.setattr("platform.node", lambda: "")
    assert default(PLACES).nodes[0].name == "here"


def test_the_inventory_is_looked_for_in_the_order_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "SYSTEM_INVENTORY", tmp_path / "etc.yaml")
    places = Places.of({"XDG_CONFIG_HOME": str(tmp_path)}, tmp_path)
    assert find(None, {}, places) is None
    (tmp_path / "etc.yaml").touch()
    assert find(None, {}, places) == tmp_path / "etc.yaml"
    places.config.mkdir()
    places.inventory.touch()
    assert find(None, {}, places) == places.inventory
    (tmp_path / "configured.yaml").touch()
    assert find(None, {}, places, tmp_path / "configured.yaml") == tmp_path / "configured.yaml"
    (tmp_path / "env.yaml").touch()
    env = {"DISTRIBUTE_INVENTORY": str(tmp_path / "env.yaml")}
    assert find(None, env, places, tmp_path / "configured.yaml") == tmp_path / "env.yaml"
    assert find(str(tmp_path / "etc.yaml"), env, places) == tmp_path / "etc.yaml"


@pytest.mark.parametrize(
    ("explicit", "env", "configured", "origin"),
    [
        ("/nowhere.yaml", {}, None, "--inventory"),
        (None, {"DISTRIBUTE_INVENTORY": "/nowhere.yaml"}, None, "DISTRIBUTE_INVENTORY"),
        (None, {}, Path("/nowhere.yaml"), "config.yaml"),
    ],
)
def test_an_inventory_that_was_asked_for_and_is_not_there_is_never_replaced_by_another(
    explicit: str | None, env: dict[str, str], configured: Path | None, origin: str
) -> None:
    with pytest.raises(UsageError, match=r"/nowhere\.yaml") as caught:
        find(explicit, env, PLACES, configured)
    assert origin in str(caught.value)


# --- the samples ---


@pytest.mark.parametrize("sample", ["this-machine", "three-desks", "full"])
def test_every_sample_loads_without_a_warning(sample: str) -> None:
    found = read(ROOT / "inventory" / f"{sample}.yaml", PLACES)
    assert found.nodes
    assert found.warnings == ()
    assert all(check_name(node.name) is None for node in found.nodes)


def test_the_full_sample_and_the_manual_explain_every_key() -> None:
    keys = {*inventory._TOP, *inventory._SHARED, *inventory._OWN, "vars"}
    sample = (ROOT / "inventory" / "full.yaml").read_text()
    manual = (ROOT / "docs" / "inventory.md").read_text()
    assert {key for key in keys if not re.search(rf"^[\s#-]*{key}:", sample, re.MULTILINE)} == set()
    assert {key for key in keys if f"`{key}`" not in manual} == set()


def test_every_example_in_the_manual_loads(tmp_path: Path) -> None:
    manual = (ROOT / "docs" / "inventory.md").read_text()
    examples = re.findall(r"^```yaml\n(.*?)^```", manual, re.MULTILINE | re.DOTALL)
    assert len(examples) == 6
    for example in examples:
        found = written(tmp_path, example if "nodes:" in example else example + "nodes: [lab1]")
        assert found.nodes


@pytest.mark.parametrize(
    ("written", "least"), [("", 64 << 20), ("share_inputs: true", 64 << 20), ("share_inputs: 1G", 1 << 30)]
)
def test_big_inputs_are_shared_from_a_size_on(written: str, least: int, tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(f"defaults: {{{written}}}\nnodes: [a, {{name: b, share_inputs: false}}]\n")
    found = read(tmp_path / "inventory.yaml")
    assert [node.share_inputs for node in found.nodes] == [least, 0]
