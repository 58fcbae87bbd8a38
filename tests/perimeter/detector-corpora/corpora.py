"""Public corpora for the detectors of the last net, with what is personal in each text.

Run by the Python that `tests/setup perimeter detectors` made; prints a JSON object for each text: corpus, class, column, text, secrets.
Nothing of a corpus is a part of this repository.
"""

import ast
import contextlib
import datetime
import hashlib
import importlib
import json
import pathlib
import random
import re
import sys
import uuid

import faker
import phonenumbers
import stdnum

PACKAGES = pathlib.Path(faker.__file__).parents[1]
SOURCES = pathlib.Path(sys.prefix).parent / "sources"
dice = random.Random(14)

# Modules of python-stdnum, the words that stand before a number in a text, and the name of a column.
IDENTIFIERS = {
    "de.idnr": ("Steuer-ID", "steuer_id"), "gb.nhs": ("NHS number", "nhs_number"), "fr.nir": ("NIR", "nir"), "es.dni": ("DNI", "dni"), "es.nie": ("NIE", "nie"),
    "it.codicefiscale": ("codice fiscale", "codice_fiscale"), "nl.bsn": ("BSN", "bsn"), "pl.pesel": ("PESEL", "pesel"), "se.personnummer": ("personnummer", "personnummer"),
    "dk.cpr": ("CPR-nummer", "cpr"), "fi.hetu": ("henkilötunnus", "hetu"), "no.fodselsnummer": ("fødselsnummer", "fodselsnummer"), "be.nn": ("rijksregisternummer", "rijksregisternummer"),
    "ch.ssn": ("AHV-Nummer", "ahv"), "at.vnr": ("SVNR", "svnr"), "pt.nif": ("NIF", "nif"), "us.ssn": ("SSN", "ssn"), "us.itin": ("ITIN", "itin"), "us.mbi": ("Medicare MBI", "mbi"), "us.npi": ("NPI", "npi"),
    "ca.sin": ("SIN", "sin"), "au.tfn": ("TFN", "tfn"), "au.medicare": ("Medicare number", "medicare"), "in_.aadhaar": ("Aadhaar", "aadhaar"), "in_.pan": ("PAN", "pan"), "br.cpf": ("CPF", "cpf"),
    "br.cnpj": ("CNPJ", "cnpj"), "cn.ric": ("resident identity number", "resident_id"), "jp.in_": ("My Number", "my_number"), "kr.rrn": ("RRN", "rrn"), "sg.nric": ("NRIC", "nric"), "za.idnr": ("South African identity number", "za_id"),
    "tr.tckimlik": ("TC kimlik", "tckn"), "cz.rc": ("rodné číslo", "rodne_cislo"), "ro.cnp": ("CNP", "cnp"), "ee.ik": ("isikukood", "isikukood"), "lt.asmens": ("asmens kodas", "asmens_kodas"), "lv.pk": ("personas kods", "personas_kods"),
    "hr.oib": ("OIB", "oib"), "bg.egn": ("ЕГН", "egn"), "gr.amka": ("AMKA", "amka"), "ie.pps": ("PPS number", "pps"), "il.idnr": ("teudat zehut", "teudat_zehut"), "mx.curp": ("CURP", "curp"), "cl.rut": ("RUT", "rut"),
    "ar.cuit": ("CUIL", "cuil"), "th.pin": ("Thai identity number", "thai_id"), "my.nric": ("MyKad", "mykad"), "ru.inn": ("ИНН", "inn"), "ua.rntrc": ("РНОКПП", "rntrc"), "iban": ("IBAN", "iban"),
}
SENTENCES = ["{w}: {n}", "The {w} of this person is {n}.", "please update {w} {n}, thanks", '{{"{c}": "{n}", "ok": true}}', "{w}={n}; next"]


def put(corpus, kind, text, secrets=(), column="text"):
    print(json.dumps({"corpus": corpus, "class": kind, "column": column, "text": text, "secrets": list(secrets)}))


def module_of(name):
    with contextlib.suppress(ImportError):
        return importlib.import_module(f"stdnum.{name}")
    return None


def numbers_of_stdnum(name, module):
    """Valid numbers of its documentation and its tests, as they are written there, and the others."""
    text = module.__doc__ or ""
    tests = SOURCES / f"python_stdnum-{stdnum.__version__}" / "tests" / f"test_{name.replace('.', '_')}.doctest"
    text += tests.read_text() if tests.exists() else ""
    quoted = re.findall(r"'([^'\n]{6,42})'", text)
    lines = [line.removeprefix("...").removeprefix(">>>").strip() for line in text.splitlines()]
    good, bad = {}, {}
    for number in quoted + [line for line in lines if 6 <= len(line) <= 42 and re.search(r"\d{2}", line) and "(" not in line]:
        number = number.strip()
        if not re.search(r"\d", number):
            continue
        (good if module.is_valid(number) else bad).setdefault(re.sub(r"[\W_]", "", number), number)
    return list(good.values()), list(bad.values())


def stdnums():
    for name, (word, column) in IDENTIFIERS.items():
        if (module := module_of(name)) is None:
            continue
        good, bad = numbers_of_stdnum(name, module)
        written = []
        for number in good[:200]:
            written.append(number)
            with contextlib.suppress(Exception):
                written += [module.compact(number), module.format(number)]
        for number in dict.fromkeys(written):
            for sentence in dice.sample(SENTENCES, 2):
                put("python-stdnum, in a text", name, sentence.format(w=word, n=number, c=column), [number])
            put("python-stdnum, alone", name, number, [number])
            put("python-stdnum, column named", name, number, [number], column)
        for number in bad[:50]:
            if re.fullmatch(r"[\d .-]{8,20}", number):
                put("python-stdnum, wrong check digits", name, f"order {number}")


def localflavor():
    """The tables of the tests of django-localflavor: a field, and what it takes."""
    words = {"Personnummer": "personnummer", "SocialSecurity": "social security number", "NationalID": "national id", "NationalIdentity": "national id", "IdentityCard": "identity card", "PESEL": "PESEL", "CodiceFiscale": "codice fiscale", "CURP": "CURP",
             "SocialInsurance": "social insurance number", "CPF": "CPF", "CNPJ": "CNPJ", "Rut": "RUT", "CNP": "CNP", "EGN": "EGN", "BSN": "BSN", "PersonalIdentity": "personal number", "BirthNumber": "birth number", "IDNumber": "identity number", "IdNumber": "identity number", "IDCard": "identity card",
             "SSN": "SSN", "NIN": "social security number", "OIB": "OIB", "TaxFile": "tax file number", "Medicare": "Medicare", "CPR": "CPR", "PPS": "PPS", "Aadhaar": "Aadhaar", "PANCard": "PAN", "IBAN": "IBAN", "NRIC": "NRIC", "Cedula": None, "SIN": "SIN", "AMKA": "AMKA"}
    for path in sorted((SOURCES / "django_localflavor-5.1/tests").rglob("test_*.py")):
        for function in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]:
            values = {}
            for node in [node for node in ast.walk(function) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]:
                values[ast.unparse(node.targets[0])] = [key.value for key in node.value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
            for call in [node for node in ast.walk(function) if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.assertFieldOutput"]:
                field = ast.unparse(call.args[0])
                word = next((word for part, word in words.items() if part in field), None)
                if word and len(call.args) > 2 and "PostCode" not in field:
                    for number in values.get(ast.unparse(call.args[1]), []):
                        put("django-localflavor, in a text", field, f"Their {word} is {number}.", [number.strip()])
                    for number in values.get(ast.unparse(call.args[2]), []):
                        if re.fullmatch(r"[\d .-]{8,20}", number):
                            put("django-localflavor, wrong check digits", field, f"order {number}")


def phones():
    kinds = {phonenumbers.PhoneNumberType.FIXED_LINE: "fixed", phonenumbers.PhoneNumberType.MOBILE: "mobile"}
    forms = {"E164": phonenumbers.PhoneNumberFormat.E164, "international": phonenumbers.PhoneNumberFormat.INTERNATIONAL, "national": phonenumbers.PhoneNumberFormat.NATIONAL}
    for region in phonenumbers.SUPPORTED_REGIONS:
        for of, kind in kinds.items():
            if (number := phonenumbers.example_number_for_type(region, of)) is None:
                continue
            for form, how in forms.items():
                text = phonenumbers.format_number(number, how)
                put("phonenumbers, alone", form, text, [text])
                put("phonenumbers, in a text", form, f"Please call {text} before noon", [text])
                put("phonenumbers, column named", form, text, [text], "phone")


def presidio():
    """The templates of presidio-evaluator, filled by Faker of several locales."""
    fakes = [faker.Faker(locale) for locale in ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "sv_SE", "pl_PL", "pt_BR")]
    templates = (PACKAGES / "presidio_evaluator/data_generator/raw_data/templates.txt").read_text(errors="replace").splitlines()
    personal = {"credit_card_number": "card", "iban": "iban", "email": "email", "phone_number": "phone", "ssn": "ssn", "date_of_birth": "birth"}
    american = fakes[0]
    for turn in range(15):
        for template in filter(None, templates):
            fake = fakes[turn % len(fakes)]
            secrets, classes = [], []

            def filled(match):
                name = match[1]
                value = {
                    "person": fake.name, "address": lambda: fake.address().replace("\n", ", "), "email": fake.email, "phone_number": fake.phone_number, "ssn": american.ssn,
                    "credit_card_number": fake.credit_card_number, "iban": fake.iban, "date_of_birth": lambda: fake.date_of_birth().strftime(dice.choice(["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d %B %Y", "%B %d, %Y"])),
                    "organization": fake.company, "date_time": lambda: fake.date_time().isoformat(" "), "age": lambda: str(dice.randrange(1, 99)), "ip_address": fake.ipv4, "nationality": lambda: "Irish",
                    "zipcode": fake.postcode, "us_driver_license": lambda: "D" + str(dice.randrange(10**7)), "url": fake.url, "year": fake.year, "building_number": fake.building_number,
                }.get(name)
                value = value() if value else getattr(fake, name, fake.word)()
                if name in personal:
                    secrets.append(value)
                    classes.append(personal[name])
                return str(value)

            text = re.sub(r"\{\{([a-z_]+)\}\}", filled, template.replace("\\n", "\n"))
            put("presidio-evaluator", "+".join(sorted(set(classes))) or "none", text, secrets)


def cards():
    fake = faker.Faker()
    fake.seed_instance(1)
    for network in ["visa", "visa16", "mastercard", "amex", "discover", "diners", "jcb16", "jcb15", "maestro"]:
        for _ in range(60):
            number = fake.credit_card_number(network)
            groups = " ".join(re.findall("....", number)) if len(number) == 16 else number
            for form in {number, groups, groups.replace(" ", "-")}:
                put("Faker, cards alone", network, form, [form])
                put("Faker, cards in a text", network, f"charge card {form} please", [form])


def fakes():
    """What Faker gives for each of its locales."""
    for locale in sorted(faker.config.AVAILABLE_LOCALES):
        fake = faker.Faker(locale)
        fake.seed_instance(2)
        for _ in range(10):
            with contextlib.suppress(Exception):
                number = fake.phone_number()
                put("Faker, phones of all locales", locale, f"tel. {number}", [number])
            with contextlib.suppress(Exception):
                number = fake.email()
                put("Faker, e-mail of all locales", locale, f"write to {number} please", [number])
            with contextlib.suppress(Exception):
                number = fake.iban()
                put("Faker, IBANs of all locales", locale, f"to account {number}, thanks", [number])
            if locale in LOCALES:
                with contextlib.suppress(Exception):
                    number = str(fake.ssn())
                    put("Faker, identifiers of locales", locale, f"{LOCALES[locale]}: {number}", [number])


LOCALES = {"en_US": "SSN", "en_GB": "NINO", "de_DE": "Rentenversicherungsnummer", "de_AT": "SVNR", "de_CH": "AHV", "fr_FR": "NIR", "es_ES": "NIE", "it_IT": "codice fiscale", "nl_NL": "BSN", "nl_BE": "rijksregisternummer", "pl_PL": "PESEL", "sv_SE": "personnummer", "dk_DK": "CPR",
           "fi_FI": "henkilötunnus", "no_NO": "fødselsnummer", "pt_BR": "CPF", "zh_CN": "身份证", "ko_KR": "주민등록번호", "en_CA": "SIN", "tr_TR": "TC kimlik", "hr_HR": "OIB", "ro_RO": "CNP", "et_EE": "isikukood", "lt_LT": "asmens kodas", "cs_CZ": "rodné číslo", "sk_SK": "rodné číslo", "bg_BG": "ЕГН", "en_IE": "PPS number", "es_CL": "RUT", "el_GR": "AMKA", "zh_TW": "身分證", "en_IN": "Aadhaar", "uk_UA": "РНОКПП", "lv_LV": "personas kods", "es_MX": "CURP", "th_TH": "Thai identity number", "he_IL": "teudat zehut"}


def births():
    fake = faker.Faker("en_US")
    fake.seed_instance(3)
    for _ in range(100):
        day = fake.date_of_birth()
        for form in ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d %B %Y", "%B %d, %Y", "%d %b %Y", "%Y%m%d", "%d/%m/%y"]:
            text = day.strftime(form)
            sentence = dice.choice(["DOB: {}", "born on {} in Leeds", "date of birth {}", "geboren am {}", "né le {}", "nacido el {}", "birthday is {}", '{{"birth_date": "{}"}}', "Geburtsdatum {}"])
            put("Faker, births", form, sentence.format(text), [text])
            put("dates, made", form, dice.choice(["admitted {}", "due on {}", "{}", "from {} on", "invoice of {}"]).format(text))


def ordinary():
    for path in sorted((PACKAGES / "gensim/test/test_data").glob("lee*.cor")):
        for line in path.read_text(errors="replace").splitlines():
            put("gensim, Lee's news", "text", line)
    for path in sorted((PACKAGES / "django").rglob("*.py"))[::4]:
        for line in path.read_text(errors="replace").splitlines():
            if re.search(r"\d{3}|@", line):
                put("Django's sources", "code", line.strip())
    for path in sorted((PACKAGES / "vega_datasets/_data").glob("*.csv")):
        for line in path.read_text(errors="replace").splitlines()[1:1500]:
            put("vega_datasets, rows", path.stem, line)
            put("vega_datasets, rows by spaces", path.stem, line.replace(",", " "))
    for path in sorted((PACKAGES / "vega_datasets/_data").glob("*.json")):
        text = path.read_text(errors="replace")
        for at in range(0, min(len(text), 100_000), 400):
            put("vega_datasets, JSON", path.stem, text[at:at + 400])
    for path in sorted((PACKAGES / "tzdata/zoneinfo").glob("*.tab")):
        for line in path.read_text().splitlines():
            put("tzdata, tables", path.stem, line)
    made()


def made():
    """Numbers of ordinary columns, made from a seed."""
    when = datetime.datetime(2026, 1, 1)
    isbn = lambda n: n + "0123456789X"[-sum((10 - i) * int(d) for i, d in enumerate(n)) % 11]  # noqa: E731
    ean = lambda n: n + str(-sum(int(d) * (1, 3)[i % 2] for i, d in enumerate(n)) % 10)  # noqa: E731
    digits = lambda n: "".join(dice.choice("0123456789") for _ in range(n))  # noqa: E731
    for n in range(1000):
        at = when + datetime.timedelta(seconds=dice.randrange(10**8))
        for kind, value in {
            "UUID": str(uuid.UUID(int=dice.getrandbits(128), version=4)), "SHA-256": hashlib.sha256(str(n).encode()).hexdigest(), "MD5": hashlib.md5(str(n).encode()).hexdigest(),
            "seconds": str(int(at.timestamp())), "milliseconds": str(int(at.timestamp() * 1000)), "microseconds": str(int(at.timestamp() * 1e6)), "ISO time": at.isoformat() + "Z", "time as digits": at.strftime("%Y%m%d%H%M%S"),
            "order number, 8 digits": digits(8), "order number, 9 digits": digits(9), "order number, 10 digits": digits(10), "order number, 11 digits": digits(11), "order number, 12 digits": digits(12), "order number, 13 digits": digits(13), "order number, 16 digits": digits(16),
            "order with date": f"{at:%Y%m%d}-{digits(4)}", "order by hyphens": f"{digits(3)}-{digits(7)}-{digits(7)}", "order in a text": f"Your order {digits(10)} was shipped, tracking {digits(12)}.", "with zeros": digits(6).zfill(10), "SKU": f"AB{digits(6)}", "serial": f"SN-{digits(4)}-{digits(4)}",
            "ISBN-10": isbn(dice.choice("01") + digits(8)), "EAN-13": ean(dice.choice(["400", "501", "978", "301", "760"]) + digits(9)), "snowflake": str(dice.randrange(10**18, 2 * 10**18)), "hash as integer": str(dice.getrandbits(63)),
            "IPv4": ".".join(str(dice.randrange(256)) for _ in range(4)), "version": f"v{dice.randrange(9)}.{dice.randrange(99)}.{dice.randrange(999)}", "money": f"${dice.randrange(10**7):,}.{digits(2)}", "float": repr(dice.random()), "floats": " ".join(repr(dice.gauss(0, 100)) for _ in range(4)),
            "coordinates": f"{dice.uniform(-90, 90):.6f}, {dice.uniform(-180, 180):.6f}", "row of counts": " ".join(str(dice.randrange(10**dice.randrange(1, 5))) for _ in range(10)), "row of four digits": " ".join(digits(4) for _ in range(8)),
            "log line": f"{at.isoformat(sep=' ')} INFO [worker-{dice.randrange(99)}] request {uuid.UUID(int=dice.getrandbits(128))} took {dice.randrange(9999)} ms, {dice.randrange(10**7)} bytes from 10.0.{dice.randrange(255)}.{dice.randrange(255)}:{dice.randrange(1024, 65535)}",
            "URL": f"https://shop.example/item/{digits(12)}?ref={digits(8)}&t={int(at.timestamp())}",
        }.items():
            put("made: " + kind, "number", value)


if __name__ == "__main__":
    faker.Faker.seed(1)
    for part in (stdnums, localflavor, phones, presidio, cards, fakes, births, ordinary):
        part()
