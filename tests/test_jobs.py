"""Logs of jobs: each format by hand and against NumPy, what is malformed, what is refused, memory, classes of statuses."""

import csv
import gzip
import io
import math
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from lstm.data import jobs
from lstm.data.job_formats import BadHeader, BadLine, JobStep
from lstm.data.jobs import Faults, Job, class_of, open_format, read_jobs

NAN, ROOT = math.nan, Path(__file__).parents[1]
LINE = "7 100 20 300 64 290 5 128 3600 2048 1 3 4 5 6 2 1 30"  # the 18 fields of a whole job
CLASSES = ("completed", "failed", "cancelled")
PODS = {
    "id": "name",
    "submit": "creation_time",
    "start": "scheduled_time",
    "end": "deletion_time",
    "status": "pod_phase",
    "memory": "memory_mib",
    "queue": "qos",
}


def same(job, expected):
    """Equal field by field, NaN equal to NaN."""
    assert repr(job) == repr(expected)


def swf(text, *header):
    form = open_format("swf")
    assert [form.parse(line) for line in header] == [None] * len(header)
    return form.parse(text)


def at(field, value, line=LINE):
    """LINE with another value in a field, counted from 1."""
    fields = line.split()
    return " ".join([*fields[: field - 1], value, *fields[field:]])


def table(kind, *lines, **options):
    form = open_format(kind, **options)
    return [job for job in map(form.parse, lines) if job is not None]


def write(path, lines):
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def every(path, **options):
    return [job for block in read_jobs(path, **options) for job in block]


# SWF ----------------------------------------------------------------------------------------------------------------------


def test_swf_by_hand():
    expected = Job("7", 100.0, 120.0, 420.0, "1", 128.0, 3600.0, 2.0, "3", "4", "5", "6", "2", "1")
    same(swf(LINE), expected)
    same(swf(f"   {LINE}   \n".replace(" ", "\t")), expected)
    nothing = "8 5 -1 -1 64 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1"
    same(swf(nothing), Job("8", 5.0, NAN, NAN, "", NAN, NAN, NAN, "", "", "", "", "", ""))
    same(swf(nothing.replace(" ", ".0 ")), Job("8.0", 5.0, NAN, NAN, "", NAN, NAN, NAN, "", "", "", "", "", ""))
    assert swf(at(2, "100.25")).submit == 100.25 and swf(at(4, "0.5")).end == 120.5
    assert swf(at(3, "-1")).start == 100, "of a job that ended an unknown wait is none"
    assert math.isnan(swf(at(8, "-1")).processors), "those allocated are known too late"


@pytest.mark.parametrize("status", ["-1", "0", "1", "2", "3", "4", "5"])
def test_swf_end_of_a_job_without_a_run_time(status):
    job = swf(at(4, "-1", at(11, status)))
    assert job.status == status.replace("-1", "")
    assert math.isnan(job.end) if status in ("-1", "2") else job.end == job.start == 120
    assert swf(at(11, status)).end == 420, "a run time is one, whatever the status"


def test_swf_times_are_the_machines_clock():
    start = int(datetime(2007, 3, 11, 9, 0, tzinfo=UTC).timestamp())  # an hour before Los Angeles puts its clocks on
    head = [
        f"; UnixStartTime: {start}",
        "; TimeZone: 3600",
        ";TimeZoneString:  US/Pacific ",
        "; Note: TimeZone: 5",
        ";",
    ]
    job = swf(at(4, "7200", at(3, "1800")), *head)
    for moment, value in zip((100, 1900, 9100), job[1:4], strict=True):
        local = datetime.fromtimestamp(start + moment, ZoneInfo("America/Los_Angeles"))
        assert value == local.replace(tzinfo=UTC).timestamp()
    assert job.end - job.start == 7200 + 3600
    assert swf(LINE, head[0]).submit == start + 100, "no zone: UTC"
    assert swf(LINE, *head[:2]).submit == start + 3700
    assert swf(LINE, *head[1:3]).submit == 100, "a zone without a start says nothing"
    assert swf(LINE, *head[2::-1]).submit == swf(LINE, *head[:3]).submit == start + 100 - 8 * 3600


def test_swf_times_keep_their_order_when_clocks_are_put_back():
    start = int(datetime(2007, 11, 4, 8, 50, tzinfo=UTC).timestamp())  # 01:50 in Los Angeles, ten minutes before
    for wait, run in (("-1", "1200"), ("1200", "5")):
        job = swf(at(4, run, at(3, wait)), f"; UnixStartTime: {start}", "; TimeZoneString: US/Pacific")
        assert job.submit == job.start == job.end == start + 100 - 7 * 3600


@pytest.mark.parametrize(
    "line",
    [
        "; TimeZoneString: Mars/Base",
        "; TimeZoneString: ../../etc/passwd",
        "; TimeZoneString: America",
        "; TimeZone: PST",
        "; UnixStartTime: soon",
        "; UnixStartTime: -1",
        "; UnixStartTime: 99999999999999",
    ],
)
def test_swf_header_that_cannot_be_used_is_said(tmp_path, line):
    form = open_format("swf")
    with pytest.raises(BadHeader, match="the header's .* is not known here, times are read without it: '"):
        form.parse(line)
    assert form.parse(LINE).submit == 100
    path, faults = write(tmp_path / "a.swf", [line, LINE]), Faults()
    assert len(every(path, faults=faults)) == 1
    assert (faults.lines, faults.malformed) == (1, 0) and faults.report()[0].endswith(f"{path}:1")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (LINE[:-3], "not 18 fields"),
        (f"{LINE} 1", "not 18 fields"),
        ("garbage", "not 18 fields"),
        (at(3, "x"), "a field is not a number: 'x'"),
        (at(3, "1_0"), "a field is not a number"),
        (at(6, "nan"), "a field is not a number"),
        (at(18, "1e999"), "a field is not a number"),
        (at(6, "1" * 5000), "a field is not a number"),
        (at(1, "-1"), "no job number, or no submit time"),
        (at(2, "-1"), "no job number, or no submit time"),
        (at(2, "-100"), "the submit time is negative"),
        (at(2, "1700000000000"), "the submit time is after the year 5138; times are in seconds"),
        (at(4, "200000000000"), "the end is after the year 5138"),
        (at(3, "-2"), "the wait is negative, or too large; unknown is -1: '-2'"),
        (at(4, "-0.5"), "the run time is negative"),
        (at(8, "-5"), "the number of processors is negative"),
        (at(8, "9" * 400), "the number of processors is negative, or too large"),
    ],
)
def test_swf_malformed(line, reason):
    with pytest.raises(BadLine) as error:
        swf(line)
    assert str(error.value).startswith(reason) and len(str(error.value)) < 140


whole = st.integers(0, 10**9)
unknown = st.one_of(st.just(-1), whole, st.floats(0, 1e9).map(lambda x: round(x, 3)))


@given(st.lists(st.tuples(whole, whole, *[unknown] * 16), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_swf_agrees_with_numpy(rows):
    text = "; a comment\n" + "\n".join(" ".join(map(str, row)) for row in rows)
    agree_with_numpy(table("swf", *text.split("\n")), np.loadtxt(io.StringIO(text), comments=";", ndmin=2))


def agree_with_numpy(found, values, offset=0.0):
    """offset: what is added to field 2, a number or one for each job."""
    known = np.where(values < 0, np.nan, values)
    numbers = lambda field: np.array([getattr(job, field) for job in found])
    np.testing.assert_array_equal(numbers("submit"), known[:, 1] + offset)
    not_started = (values[:, 2] < 0) & np.isnan(numbers("end"))
    waited = np.where(not_started, np.nan, np.maximum(values[:, 2], 0))
    np.testing.assert_allclose(numbers("start") - numbers("submit"), waited, atol=1e-6)
    for column, field, unit in ((7, "processors", 1), (8, "time_limit", 1), (9, "memory", 1024)):
        np.testing.assert_array_equal(numbers(field), known[:, column] / unit)
    for column, field in enumerate(("status", "user", "group", "program", "queue", "partition", "after"), 10):
        names = [getattr(job, field) or "-1" for job in found]
        np.testing.assert_array_equal([float(name) for name in names], values[:, column])


@given(st.text(st.characters(codec="utf-8"), max_size=80))
@settings(max_examples=50, deadline=None)
def test_any_line_is_a_job_or_a_bad_line(text):
    header = {"swf": [], "sacct": ["JobID|Submit|State|User"], "csv": ["submit,memory"]}
    for kind, lines in header.items():
        form = open_format(kind)
        for line in lines:
            form.parse(line)
        try:
            job = form.parse(text)
        except BadLine:
            continue
        assert job is None or math.isfinite(job.submit)


# sacct --------------------------------------------------------------------------------------------------------------------

SACCT = "JobID|JobName|User|Group|Account|Partition|QOS|ReqCPUS|ReqMem|Timelimit|Submit|Start|End|State|Dependency"
ROW = (
    "12_3|relax|ann|physics|grant|batch|normal|64|4Gn|1-02:03:04|2024-05-31T23:59:59|2024-06-01T00:00:09|"
    "2024-06-01T01:00:00|CANCELLED by 1000|afterok:77_1(unfulfilled),afterany:5"
)


def seconds(*moment):
    return datetime(*moment, tzinfo=UTC).timestamp()


def test_sacct_by_hand():
    times = seconds(2024, 5, 31, 23, 59, 59), seconds(2024, 6, 1, 0, 0, 9), seconds(2024, 6, 1, 1)
    words = "ann", "physics", "relax", "normal", "batch", "77_1"
    (job,) = table("sacct", SACCT, ROW, "", SACCT)  # logs end to end: the header once more
    same(job, Job("12_3", *times, "CANCELLED", 64.0, 93784.0, 4096.0, *words))


def test_sacct_columns_in_any_order_and_few_of_them():
    (job,) = table("sacct", "State|AllocCPUS|User|Submit|JobID|Account|", "FAILED|512|ann|2024-05-31T00:00:00|9|grant|")
    same(job, Job("9", seconds(2024, 5, 31), NAN, NAN, "FAILED", NAN, NAN, NAN, "ann", "grant", "", "", "", ""))
    (job,) = table("sacct", "JobID|Submit|State|User|GID", "9|1717113600|FAILED|ann|500")
    assert (job.submit, job.group) == (1717113600, "500")
    with pytest.raises(InputError, match=r"^feed: no column 'Submit'; it has JobID, State, User; write it by: sacct -"):
        table("sacct", "JobID|State|User", name="feed")
    with pytest.raises(InputError, match="2 columns are called 'User'"):
        table("sacct", "JobID|State|User|Submit|User")


@pytest.mark.parametrize("word", ["PENDING", "RUNNING", "SUSPENDED", "REQUEUED", "RESIZING", "COMPLETING"])
def test_sacct_job_that_has_not_ended(word):
    (job,) = table("sacct", "JobID|Submit|Start|End|State|User", f"1|2024-05-31|Unknown|2024-06-01|{word}|ann")
    assert job.status == "" and math.isnan(job.start) and math.isnan(job.end)


@pytest.mark.parametrize(
    ("column", "text", "field", "value"),
    [
        ("ReqMem", "4000M", "memory", 4000),
        ("ReqMem", "2Gc", "memory", 2048),
        ("ReqMem", "1.50T", "memory", 1.5 * 1024**2),
        ("ReqMem", "512K", "memory", 0.5),
        ("ReqMem", "0", "memory", 0),
        ("ReqMem", "0n", "memory", 0),
        ("ReqMem", "", "memory", NAN),
        ("Timelimit", "00:30:00", "time_limit", 1800),
        ("Timelimit", "365-00:00:00", "time_limit", 365 * 86400),
        ("Timelimit", "UNLIMITED", "time_limit", NAN),
        ("Timelimit", "Partition_Limit", "time_limit", NAN),
        ("ReqCPUS", "", "processors", NAN),
        ("End", "None", "end", NAN),
        ("Dependency", "(null)", "after", ""),
        ("Dependency", "singleton", "after", ""),
        ("Dependency", "after:123+5", "after", "123"),
        ("State", "OUT_OF_MEMORY", "status", "OUT_OF_MEMORY"),
    ],
)
def test_sacct_values(column, text, field, value):
    cells = dict(zip(SACCT.split("|"), ROW.split("|"), strict=True)) | {column: text}
    (job,) = table("sacct", SACCT, "|".join(cells.values()))
    assert repr(getattr(job, field)) == repr(float(value) if isinstance(value, int) else value)


@pytest.mark.parametrize(
    ("column", "text", "reason"),
    [
        ("ReqMem", "lots", "the memory is not like 4000M, 4Gn or 2Gc: 'lots'"),
        ("Timelimit", "90", "the time limit is not [DD-]HH:MM:SS: '90'"),
        ("ReqCPUS", "many", "ReqCPUS is not a number: 'many'"),
        ("Submit", "Unknown", "no JobID, or no Submit"),
        ("JobID", "", "no JobID, or no Submit"),
        ("Start", "31/05/2024", "Start is not a time like 2024-05-31T23:59:59: '31/05/2024'"),
        ("End", "1717113600", "End is not a time like"),
        ("End", "0001-01-01T00:00:00", "End is before 1970"),
        ("JobName", "a|b", "not the 15 fields of the header"),
    ],
)
def test_sacct_malformed(column, text, reason):
    cells = dict(zip(SACCT.split("|"), ROW.split("|"), strict=True)) | {column: text}
    with pytest.raises(BadLine) as error:
        table("sacct", SACCT, "|".join(cells.values()))
    assert str(error.value).startswith(reason)


def test_sacct_steps_are_no_jobs_and_no_faults(tmp_path):
    lines = [SACCT, ROW, *(ROW.replace("12_3|", f"12_3.{step}|") for step in ("batch", "extern", "0", "1"))]
    path, faults = write(tmp_path / "log.txt", lines), Faults()
    (job,) = every(path, faults=faults)
    assert job.id == "12_3" and (faults.lines, faults.malformed) == (5, 0)
    assert faults.report() == [f"4 x steps of jobs, left out: {path}:3, {path}:4, {path}:5"]
    assert len(every(path)) == 1, "steps are nothing to stop at"
    form = open_format("sacct")
    form.parse(SACCT)
    with pytest.raises(JobStep):
        form.parse(lines[2])


# CSV ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_csv_by_hand(delimiter):
    columns = {"id": "job", "submit": "t0", "wait": "waited", "run": "ran", "status": "how", "user": "who", "queue": ""}
    rows = [
        ["", "job", "t0", "how", "waited", "ran", "who"],
        ["0", "a", "10", "ok", "5", "7", "Ann"],
        ["1", "b", "11.5", "", "None", "-1", ""],
        ["2", "c", "12", "ok", "", "3", "x"],
    ]
    found = table("csv", *(delimiter.join(row) for row in rows), columns=columns)
    same(found[0], Job("a", 10.0, 15.0, 22.0, "ok", NAN, NAN, NAN, "Ann", "", "", "", "", ""))
    same(found[1], Job("b", 11.5, NAN, NAN, "", NAN, NAN, NAN, "", "", "", "", "", ""))
    same(found[2], Job("c", 12.0, NAN, 15.0, "ok", NAN, NAN, NAN, "x", "", "", "", "", ""))


def test_csv_columns_of_their_own_names_and_quotes():
    (job,) = table("csv", "id,submit,program,memory,colour", '1,2024-05-31 12:00:00+02:00,"a, ""b""",1.5,red\r\n')
    same(job, Job("1", seconds(2024, 5, 31, 12), NAN, NAN, "", NAN, NAN, 1.5, "", "", 'a, "b"', "", "", ""))
    (job,) = table("csv", "id\tsubmit\tprogram", '1\t5\t"a, b')
    assert job.program == '"a, b'


@given(st.lists(st.tuples(st.text("ab,\"' |;\t", min_size=1), st.integers(0, 10**10)), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_csv_reads_what_the_csv_module_writes(rows):
    text = io.StringIO()
    csv.writer(text).writerows([("program", "submit"), *rows])
    found = table("csv", *text.getvalue().splitlines())
    assert [(job.program, job.submit) for job in found] == [(name.strip(), submit) for name, submit in rows]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,2024-05-31,4", "submit is not a number: '2024-05-31'"),
        ("1,1700000000000,4", "submit is after the year 5138; times are in seconds"),
        ("1,,4", "no submit time"),
        ("1,5,four", "processors is not a number: 'four'"),
        ("1,5,-4", "processors is negative"),
        ("1,5", "not the 3 fields of the header"),
        ('"1,5,4', "not a row of a table"),
    ],
)
def test_csv_malformed(line, reason):
    with pytest.raises(BadLine) as error:
        table("csv", "id,submit,processors", "0,1,2", line)
    assert str(error.value).startswith(reason)


def test_csv_columns_that_are_not_there():
    with pytest.raises(InputError, match=r"feed: no column 'creation'; it has name, created; .*config.data.columns"):
        table("csv", "name,created", columns={"submit": "creation"}, name="feed")
    with pytest.raises(InputError, match=r"no column 'submit'; it has one column, 'a;b'"):
        table("csv", "a;b")
    with pytest.raises(InputError, match=r"config.data.columns.submitted: no field of a job; did you mean 'submit'"):
        open_format("csv", {"submitted": "a"})
    with pytest.raises(InputError, match=r"config.data.columns.submit: not set"):
        open_format("csv", {"user": "a"})
    with pytest.raises(InputError, match=r"'cvs' is no kind of log; did you mean 'csv'"):
        open_format("cvs")


# Files --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.swf", "a.swf.gz"])
def test_blocks(tmp_path, name):
    path = write(tmp_path / name, ["; MaxNodes: 5", *(at(1, str(i), at(2, str(i))) for i in range(7))])
    blocks = list(read_jobs(path, block=3))
    assert [[job.id for job in block] for block in blocks] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert blocks[0] == list(read_jobs(path, kind="swf"))[0][:3]


def test_kind_of_a_file(tmp_path):
    for name, kind in {"a.SWF": "swf", "a.swf.gz": "swf", "b.csv.gz": "csv", "b.tsv": "csv"}.items():
        assert jobs.kind_of_path(tmp_path / name) == kind, "by its name alone"
    for name in ("a.txt", "b.psv.gz", "c"):
        assert jobs.kind_of_path(write(tmp_path / name, [f"\ufeff{SACCT}", ROW])) == "sacct"
        assert every(tmp_path / name)[0].user == "ann"
    with pytest.raises(InputError, match=r"d.log: not known as a log of jobs; .swf is .*, .csv .* `sacct --parsable2`"):
        jobs.kind_of_path(write(tmp_path / "d.log", [LINE]))
    assert every(tmp_path / "d.log", kind="swf")[0].id == "7"


def test_malformed_lines_are_counted_and_said(tmp_path):
    lines = [LINE, "x", at(1, "8"), at(2, "50"), "1 2", at(3, "-2"), "x y z", "x", *[at(2, "200")] * 4]
    path, faults = write(tmp_path / "a.swf", lines), Faults()
    assert [job.submit for job in every(path, faults=faults)] == [100, 100, 50, 200, 200, 200, 200]
    assert (faults.lines, faults.malformed) == (12, 5)
    assert faults.report() == [
        "5 of 12 lines are malformed and were left out",
        f"4 x not 18 fields: {path}:2, {path}:5, {path}:7",
        f"1 x submitted before the job above, to be sorted: {path}:4",
        f"1 x the wait is negative, or too large; unknown is -1: {path}:6",
    ]
    with pytest.raises(InputError, match=r"a.swf:2: not 18 fields: 'x'; mend the line, or remove it$"):
        every(path)
    assert Faults().report() == []


def test_end_before_submission_is_said(tmp_path):
    path, faults = write(tmp_path / "a.csv", ["submit,end", "5,6", "6,1"]), Faults()
    assert len(every(path, faults=faults)) == 2
    assert faults.report() == [f"1 x ended before it was submitted: {path}:3"]


@pytest.mark.parametrize(("good", "bad", "refused"), [(2, 2, False), (2, 3, True), (499, 900, True), (600, 900, False)])
def test_file_that_is_mostly_malformed(tmp_path, good, bad, refused):
    path = write(tmp_path / "a.swf", ["; x", *[LINE] * good, *["# x"] * bad])
    if not refused:
        assert len(every(path, faults=Faults())) == good
        return
    count = rf"{min(bad, 1000 - good):,} of the first {min(good + bad, 1000):,} lines are malformed"
    said = rf"a.swf: not a swf log \(line {good + 2}: not 18 fields: '# x'\); {count}; expected 18 numbers a line$"
    with pytest.raises(InputError, match=said):
        every(path, faults=Faults())


def test_files_that_are_no_logs(tmp_path):
    def refused(name, data, message):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(InputError, match=message) as error:
            every(path, faults=Faults())
        assert "\n" not in str(error.value)

    refused("a.swf", b"", "a.swf: no job in it")
    refused("a.txt", b"", "a.txt: the file is empty")
    refused("b.swf", b"; UnixStartTime: 5\n\n", "b.swf: no job in it")
    refused("b.csv", b"submit\n", "b.csv: no job in it")
    refused("c.swf", f"{LINE}\n; Universit\xe9\n".encode("latin1"), "c.swf:2: not UTF-8; convert it: iconv")
    refused("d.swf.gz", LINE.encode(), r"d.swf.gz: not a whole gzip file \(Not a gzipped file")
    packed = gzip.compress(f"{LINE}\n".encode() * 9999)
    refused("e.swf.gz", packed[:-20], "e.swf.gz: not a whole gzip file")
    refused("f.swf.gz", packed[:50] + b"\xff" * 20 + packed[70:], "f.swf.gz: not a whole gzip file")
    refused("g.swf", None, r"g.swf: cannot be read \(No such file or directory\)")
    refused("h.swf", b"1 " * (1 << 20), "h.swf:1: a line of more than 1,048,576 bytes")
    (tmp_path / "i.swf").mkdir()
    refused("i.swf", None, r"i.swf: cannot be read \(Is a directory\)")


READ = """
import sys, tracemalloc
from lstm.data.jobs import Faults, read_jobs

for path in sys.argv[1:]:
    tracemalloc.start()
    jobs = sum(map(len, read_jobs(path, block=1000, faults=Faults())))
    print(jobs, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
"""


@pytest.mark.slow
def test_memory_is_bounded_by_the_block(tmp_path, python):
    counts = (10_000, 80_000)
    paths = [tmp_path / f"{count}.swf" for count in counts]
    for path, count in zip(paths, counts, strict=True):
        with path.open("w") as file:
            file.writelines(f"{i} {i + 1000000} {LINE[6:]}\n" for i in range(count))
    run = subprocess.run([python, "-c", READ, *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    (few, small), (many, large) = (map(int, line.split()) for line in run.stdout.splitlines())
    assert (few, many) == counts
    assert large < 1.1 * small < 5e6, "bytes; a block of jobs is less than 1 MB"


# Classes ------------------------------------------------------------------------------------------------------------------


def test_class_of_a_status():
    assert {word: class_of(word, jobs.STATUSES["swf"], CLASSES) for word in "130452"} == {
        "1": 0, "3": 0, "0": 1, "4": 1, "5": 2, "2": -1
    }  # fmt: skip
    slurm = jobs.STATUSES["sacct"]
    assert [class_of(word, slurm, CLASSES) for word in ("COMPLETED", "TIMEOUT", "CANCELLED", "")] == [0, 1, 2, -1]
    assert set(slurm.values()) | set(jobs.STATUSES["csv"].values()) <= set(CLASSES)


def test_status_of_no_class():
    faults = Faults()
    assert [class_of(word, jobs.STATUSES["swf"], CLASSES, faults) for word in "67689"] == [-1] * 5
    assert faults.report() == ["5 x status of no class, taken as not ended (config.data.statuses): '6', '7', '8'"]
    with pytest.raises(InputError, match="status 'COMPLETE' is not in config.data.statuses; did you mean 'COMPLETED'"):
        class_of("COMPLETE", jobs.STATUSES["sacct"], CLASSES)
    with pytest.raises(InputError, match=r"config.data.statuses.5='cancelled': no such class; config.task.class_names"):
        class_of("5", jobs.STATUSES["swf"], CLASSES[:2], faults)


# Real logs ----------------------------------------------------------------------------------------------------------------

ATLAS, CURIE = "LLNL-Atlas-2006-2.1-cln.swf.gz", "CEA-Curie-sample.swf.gz"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count", "start"), [(ATLAS, 43778, 1163199901), (CURIE, 29998, 0)])
def test_real_swf_agrees_with_numpy(data_root, name, count, start):
    path, faults = data_root / "hpc-job-logs" / name, Faults()
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = every(path, faults=faults)
    assert len(found) == faults.lines == count and not faults.report()
    values = np.loadtxt(path, comments=";")
    # The clock of the machine: by the header of Atlas, on US/Pacific, which is UTC-7 from 11 March 2007, 10:00 UTC, on.
    summer = values[:, 1] + start >= datetime(2007, 3, 11, 10, tzinfo=UTC).timestamp()
    agree_with_numpy(found, values, start - np.where(summer, 7, 8) * 3600.0 if start else 0.0)
    labels = np.array([class_of(job.status, jobs.STATUSES["swf"], CLASSES) for job in found])
    np.testing.assert_array_equal(labels, np.select([values[:, 10] == 1, values[:, 10] == 0], [0, 1], 2))
    if not start:
        ends = values[:, 1] + np.maximum(values[:, 2], 0) + np.maximum(values[:, 3], 0)
        np.testing.assert_array_equal([job.end for job in found], ends)


@pytest.mark.slow
def test_real_pods(data_root):
    path, faults = data_root / "hpc-job-logs" / "alibaba-gpu-2023-openb_pod_list_default.csv.gz", Faults()
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = every(path, columns=PODS, faults=faults)
    assert len(found) == 8152 and faults.malformed == 0
    statuses = {"Succeeded": "completed", "Failed": "failed", "Running": "", "Pending": ""}
    labels = [class_of(job.status, statuses, CLASSES) for job in found]
    assert [labels.count(label) for label in (-1, 0, 1, 2)] == [5193 + 897, 192, 1870, 0]
    assert sum(math.isnan(job.start) for job in found) == 897, "those that are pending were not scheduled"
    values = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(2, 8, 9))
    np.testing.assert_array_equal([(job.memory, job.submit, job.end) for job in found], values)


def test_jobs_that_ended_and_never_started_ran_for_no_time():
    """Cancelled while they waited."""
    form = open_format("sacct")
    form.parse("JobID|Submit|Start|End|State|User")
    job = form.parse("1|2024-05-01T00:00:00|None|2024-05-03T00:00:00|CANCELLED by 0|ann")
    assert job.start == job.end == job.submit + 2 * 86_400
    assert math.isnan(form.parse("2|2024-05-01T00:00:00|Unknown|Unknown|PENDING|ann").start)
    for column, started in (("start", True), ("wait", True), ("x", False)):
        form = open_format("csv")
        form.parse(f"submit,end,status,{column}")
        job = form.parse("100,900,failed,")
        assert job.end == 900 and (job.start == 900 if started else math.isnan(job.start))


def test_a_job_without_an_id_is_called_by_its_row():
    assert [job.id for job in table("csv", "submit,user", "1,a", "2,b")] == ["row 1", "row 2"]


def test_waiting_parts_of_job_arrays_are_no_jobs():
    form = open_format("sacct")
    form.parse("JobID|Submit|State|User")
    with pytest.raises(JobStep, match="waiting parts of job arrays"):
        form.parse("12_[1-9%2]|2024-05-01T00:00:00|PENDING|ann")
    assert form.parse("12_1|2024-05-01T00:00:00|RUNNING|ann").id == "12_1"
