"""The ten questions, what each shows, and how an answer looks that is as the demo's rules would have it."""

import json

from hospital import GRETA, GRETAS_ID, RARE

ANALYST, NURSE, AUDITOR = ("analyst", "research"), ("Agent:ward-3", "treatment"), ("auditor", "audit")


class Asked:
    """One answer: rows by the names of their columns, or why there are none."""

    def __init__(self, tool, result):
        self.tool, self.why = tool, None
        self.said = result.get("structuredContent") or {}
        if result.get("isError"):
            self.why = result["content"][0]["text"]
        self.names = [column["name"] for column in self.said.get("columns", [])]
        self.rows = self.said.get("rows", [])
        self.shaped_by = self.said.get("shaped_by", [])

    def values(self, name):
        return [row[self.names.index(name)] for row in self.rows] if name in self.names else []

    def text(self):
        return json.dumps(self.rows)


class Question:
    def __init__(self, who, asked, holds, lesson, sql=None, tool="query", **arguments):
        (self.principal, purpose), self.asked, self.tool, self.holds, self.lesson = who, asked, tool, holds, lesson
        self.arguments = {**({"sql": sql} if sql else {}), "purpose": purpose, **arguments}


def collections(answer):
    return {listed["name"]: listed["tables"] for listed in answer.said.get("collections", [])}


QUESTIONS = [
    Question(ANALYST, "what is there for me?", tool="list_collections",
             holds=lambda a: sorted(collections(a)) == ["clinic", "house", "monitors", "papers", "records"] and "salaries" not in collections(a)["clinic"],
             lesson="Five collections of several kinds. The table of salaries is not for analysts: for them it does not exist."),
    Question(ANALYST, "show me some patients",
             sql="SELECT * FROM clinic.patients WHERE ward = 3 ORDER BY id LIMIT 5",
             holds=lambda a: len(a.rows) == 5 and not {"ssn", "email", "remark"} & set(a.names) and all(len(name) == 32 for name in a.values("name"))
             and all(born.endswith("01-01") for born in a.values("born")),
             lesson="Names are pseudonyms, births are years, numbers and addresses are not there; remark has no label, so it is hidden as well."),
    Question(ANALYST, f"is {GRETA} a patient here?",
             sql=f"SELECT count(*) AS found FROM clinic.patients WHERE name = '{GRETA}'",
             holds=lambda a: a.rows == [[0]],
             lesson="She is (question 8 shows it), but a condition on a masked column sees the mask: guessing names finds nobody."),
    Question(ANALYST, "what do visits cost, by diagnosis?",
             sql="SELECT diagnosis, count(*) AS visits, avg(cost) AS cost FROM records.visits GROUP BY diagnosis ORDER BY visits DESC",
             holds=lambda a: len(a.rows) >= 3 and RARE not in a.values("diagnosis"),
             lesson=f"Groups of fewer than ten people are left out, and another one with them, so that no difference tells of the one case of {RARE}."),
    Question(ANALYST, f"and the cost of asthma without patient {GRETAS_ID}?",
             sql=f"SELECT count(*) AS visits, avg(cost) AS cost FROM records.visits WHERE diagnosis = 'asthma' AND patient_id <> {GRETAS_ID}",
             holds=lambda a: a.why is None and not a.rows,
             lesson="Together with the answer before, this would be the bill of one person. Answers do not tell of those in between: nothing."),
    Question(ANALYST, "how many alarms has each ward, by bed?",
             sql="SELECT w.name, w.beds, count(*) AS alarms FROM monitors.alarms a JOIN clinic.patients p ON p.id = a.patient_id "
                 "JOIN house.wards w ON w.ward = p.ward GROUP BY w.name, w.beds ORDER BY alarms DESC",
             holds=lambda a: len(a.rows) == 4 and sum(a.values("alarms")) == 900,
             lesson="One statement over a Kafka topic, a database and a list of wards that is in neither. Ordinary analytics just works."),
    Question(ANALYST, "what do patients write?",
             sql="SELECT text FROM papers.feedback ORDER BY id",
             holds=lambda a: len(a.rows) == 3 and "@" not in a.text() and "555" not in a.text(),
             lesson="Nobody labelled this text: the last net took the address and the number out. The third text tries to give orders to an agent."),
    Question(NURSE, "who lies where on my ward?",
             sql="SELECT name, born, ward, bed, allergies FROM clinic.patients ORDER BY bed LIMIT 6",
             holds=lambda a: GRETA in a.values("name") and set(a.values("ward")) == {3},
             lesson="For treatment, the agent of ward 3 sees names and births, and of ward 3 alone, although its statement does not say so."),
    Question(NURSE, "the salaries, please (a text in the data said so)",
             sql="SELECT * FROM clinic.salaries",
             holds=lambda a: a.why is not None and "141371" not in a.why,
             lesson="An agent that obeys a text in the data gets no further than its rules, and the attempt is in the audit log."),
    Question(AUDITOR, f"what do we hold about {GRETA}?",
             sql=f"SELECT p.name, p.ssn, p.email, v.diagnosis, v.cost FROM clinic.patients p JOIN records.visits v ON v.patient_id = p.id "
                 f"WHERE p.name = '{GRETA}' ORDER BY v.cost DESC LIMIT 3",
             holds=lambda a: bool(a.rows) and a.rows[0][0] == GRETA and RARE in a.values("diagnosis"),
             lesson="Everything, for the purpose that is the auditor's. This is what the others did not get."),
]
