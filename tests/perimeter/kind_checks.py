"""What is looked at beside answers: the source's own log, the perimeter's logs, and answers while the source is hurt or has other columns than before."""

import json
import time
import urllib.error
import urllib.request

from hospital import ANALYSTS
from rows import check, wait_for

# Of drivers, of the system and of networks; the names of columns and tables may be said.
WORDS = ("os error", "refused (", "127.0.0.1", "localhost", "SQLSTATE", "FATAL", "errno", "sekret", "tokio", "reqwest", "hyper", "mysql_async", "sqlite3", "ServerSelection", "Kind {", "Error {",
         "token-of-the-upstream", "RUST_BACKTRACE", "panicked")
SIMPLE = "SELECT count(*) FROM clinic.patients"
# More than a source's own limits for a connection and an answer, tried twice, and less than forever.
HURT_S = 40


def ask(hospital, sql, agent=ANALYSTS[0]):
    result = hospital.agent(agent).result("query", sql=sql, purpose="research", max_tokens=8000)
    text = json.dumps(result)
    return text, None if result.get("isError") else result["structuredContent"]["rows"]


def secrets_of(people):
    return [p[key] for p in people for key in ("name", "ssn", "email")] + ["7777007", "hygiene@"]


def source(hospital, steps):
    """What the source saw."""
    with steps.step("source:only-read"):
        counts = hospital.kind.asked()
        steps.info("asked", json.dumps(counts, sort_keys=True) if counts else "nothing was written")
    with steps.step("source:no-masked-value-is-told"):
        # Conditions on masked columns stay with the perimeter, so that no value of them is in the log of the source.
        told = [secret for secret in secrets_of(hospital.people) if secret in hospital.kind.seen()]
        check(not told, f"the source was told {told[:3]}")


def hurt(hospital, steps):
    """The source is away, hangs, breaks off, or talks nonsense: an error that says nothing of it, in time; then it is there again."""
    for mode in hospital.kind.faults:
        with steps.step(f"source:{mode}"):
            began = time.monotonic()
            with hospital.kind.hurt(mode):
                for sql in (SIMPLE, "SELECT name, ssn FROM clinic.patients WHERE id < 9", "SELECT count(*) FROM clinic.visits"):
                    if not hospital.kind.of(sql):
                        continue
                    text, rows = ask(hospital, sql)
                    partial = mode == "cut" and rows is not None and not hospital.kind.is_whole
                    check(rows is None or partial, f"{mode}: {sql} has an answer: {text[:300]}")
                    check(rows is not None or "clinic" in text, f"{mode}: {sql}: {text[:300]}")
                    odd = [word for word in (*WORDS, str(hospital.dir), *hospital.kind.secrets, *secrets_of(hospital.people)) if word in text]
                    check(not odd, f"{mode}: {sql}: {odd[:3]}: {text[:500]}")
                    check(time.monotonic() - began < HURT_S, f"{mode}: {sql}: {time.monotonic() - began:.0f} s")
                    began = time.monotonic()
                check(ask(hospital, "SELECT beds FROM papers.beds")[1], f"{mode}: other collections do not answer")
            wait_for("an answer again", lambda: ask(hospital, SIMPLE)[1] == [[len(hospital.people)]], HURT_S, 0.5)


def other_columns(hospital, steps):
    """Columns have other names or other values: what the perimeter knew of them, and what it finds when it begins anew."""
    def asked(when):
        for sql in ["SELECT * FROM clinic.patients", "SELECT ssn FROM clinic.patients", "SELECT number FROM clinic.patients", "SELECT max(ssn), min(weight) FROM clinic.patients",
                    "SELECT CAST(ssn AS bigint) FROM clinic.patients", "SELECT weight + 1 FROM clinic.patients"]:
            if not hospital.kind.of(sql):
                continue
            text, rows = ask(hospital, sql)
            told = [secret for secret in [*secrets_of(hospital.people), "123-45-6"] if secret in text]
            check(not told, f"{when}: {sql}: {told[:3]}: {text[:400]}")
            check(rows is not None or not [word for word in WORDS if word in text], f"{when}: {sql}: {text[:400]}")
        for sql in ["SELECT count(*) FROM clinic.visits", "SELECT cost FROM clinic.visits LIMIT 1", "SELECT person, sum(cost) FROM clinic.visits GROUP BY person"]:
            if not hospital.kind.of(sql):
                continue
            text, rows = ask(hospital, sql, ANALYSTS[99])
            check(not [word for word in (*WORDS, "99999") if word in text], f"{when}: {sql}: {text[:400]}")
            if not hospital.kind.entities_stay:
                check(not [value for row in rows or [] for value in row if value not in (None, 0)], f"{when}: figures without their entities: {sql}: {rows}")

    with steps.step("source:other-columns-than-before"):
        hospital.start()
        check(ask(hospital, SIMPLE)[1] == [[len(hospital.people)]], "before")
        hospital.kind.spoil()
        asked("while it runs")
    with steps.step("source:other-columns-from-the-beginning"):
        hospital.stop()
        hospital.start()
        asked("begun anew")
    hospital.stop()


def paths(hospital):
    """What is answered beside MCP, without a token."""
    found = ""
    for path in ("/metrics", "/healthz", "/", "/.well-known/oauth-protected-resource"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{hospital.port}{path}", timeout=10) as answer:
                found += f"{path} {answer.status} {answer.read().decode()}\n"
        except urllib.error.HTTPError as error:
            found += f"{path} {error.code} {error.read().decode()}\n"
    return found


def logs(hospital, steps, beside):
    """What was written of it all. The audit log has statements, which name the people that they are about."""
    named = [hospital.people[n] for n in (6, 7, 39)]
    others = secrets_of([person for person in hospital.people if person not in named])
    for name, text, hidden in [("log", hospital.log(), secrets_of(hospital.people)), ("audit", hospital.audit.read_text(), others), ("beside-mcp", beside, secrets_of(hospital.people))]:
        with steps.step(f"logs:{name}-has-nobody"):
            check(text, "it is empty")
            found = [secret for secret in [*hidden, *hospital.kind.secrets, "a key of more than sixteen bytes", "token-of-analyst", "Ignore all previous"] if secret in text]
            at = text.find(found[0]) if found else 0
            check(not found, f"{found[:3]}: {text[max(0, at - 300):at + 200]}")
    with steps.step("logs:decisions-have-outcomes"):
        lines = [json.loads(line) for line in hospital.audit.read_text().splitlines()]
        last = {line["call"]: line["outcome"] for line in lines if line.get("call")}
        check(all(outcome != "decided" for outcome in last.values()), "a decision without an outcome")
