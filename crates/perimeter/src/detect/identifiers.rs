//! Identifiers of people that states and health systems give out: how each is written, its check, and the words beside which a number
//! is taken for one.
//!
//! A form that other numbers rarely have, and whose check few of them pass, is found by itself. All else needs one of the words
//! near it: in the text, or as the name of the column.

use std::sync::LazyLock;

use super::words::Topics;
use super::{Kind, checks as is};

pub const SOCIAL_SECURITY: &str = "social security number";
/// Those that a column has where all its values pass their check. Others have no digit to check, or one that numbers of books
/// and companies have, too.
const BY_COLUMN: [&str; 23] = [
    "AT social insurance number",
    "AU tax file number",
    "BE national register number",
    "BG EGN",
    "BR CPF",
    "Baltic personal code",
    "CL RUT",
    "DE health insurance number",
    "DE tax identification number",
    "GR AMKA",
    "HR OIB",
    "IN Aadhaar number",
    "JP My Number",
    "NL BSN",
    "NO birth number",
    "PL PESEL",
    "PT NIF",
    "RO CNP",
    "RU SNILS",
    "SE personal identity number",
    "TH identity number",
    "TR identity number",
    "ZA identity number",
];

/// An identifier of one kind. Its place in [`ALL`] is its topic.
#[derive(Debug)]
pub struct Identifier {
    pub name: &'static str,
    /// Forms without separators, which need a word: `9` is a digit, `A` a letter, `X` either, and others are themselves.
    pub compact: &'static [&'static str],
    /// Forms that are found without a word. `_` is a space, a hyphen or a dot. Letters are upper case.
    pub forms: &'static [&'static str],
    check: fn(&[u8]) -> bool,
    /// Those of up to four letters are whole words, and others begin one.
    pub words: &'static [&'static str],
}

const fn of(
    name: &'static str,
    compact: &'static [&'static str],
    forms: &'static [&'static str],
    check: fn(&[u8]) -> bool,
    words: &'static [&'static str],
) -> Identifier {
    Identifier { name, compact, forms, check, words }
}

#[rustfmt::skip]
pub static ALL: [Identifier; 55] = [
    // Those whose compact form is found by itself.
    of("FR social security number", &["999999X99999999"], &["999999X99999999", "9_99_99_9X_999_999_99", "9_99_99_9X_999_999 99"], is::fr_nir, &["nir", "insee", "sécu", "securite sociale", "carte vitale"]),
    of("ES DNI", &["99999999A"], &["99999999A", "99999999-A", "99.999.999-A", "99.999.999A"], is::es_dni, &["dni", "nif", "documento nacional"]),
    of("ES NIE", &["A9999999A"], &["A9999999A", "A-9999999-A", "A-9999999A", "A9999999-A"], is::es_nie, &["nie", "extranjero"]),
    of("IT codice fiscale", &["AAAAAAXXAXXAXXXA"], &["AAAAAAXXAXXAXXXA", "AAA_AAA_XXAXX_AXXXA", "AAAAAA_XXAXX_AXXXA", "AAA_AAA_XX_A_XX_AXXX_A"], is::it_fiscal, &["codice fiscale", "cod. fisc", "c.f.", "cf"]),
    of("UK National Insurance number", &["AA999999A"], &["AA999999A", "AA_99_99_99_A", "AA_999999_A", "AA 999999A"], is::gb_insurance, &["nino", "insurance", "ni number", "n.i."]),
    of("FI personal identity code", &["999999999X", "999999A999X"], &["999999-999X", "999999+999X", "999999A999X"], is::fi_hetu, &["hetu", "henkilötunnus", "henkilotunnus", "personbeteckning"]),
    of("CH AHV number", &["9999999999999"], &["7569999999999", "756.9999.9999.99", "756 9999 9999 99", "756-9999-9999-99"], is::ch_ahv, &["ahv", "avs", "avs/ahv", "sozialversicherungsnummer"]),
    of("US Medicare beneficiary identifier", &["9AX9AX9AA99"], &["9AX9AX9AA99", "9AX9-AX9-AA99"], is::us_mbi, &["mbi", "medicare", "beneficiary"]),
    of("IN PAN", &["AAAAA9999A"], &["AAAAA9999A"], is::in_pan, &["pan", "permanent account"]),
    of("CN resident identity number", &["99999999999999999X"], &["99999999999999999X"], is::cn_resident, &["resident", "身份"]),
    of("SG NRIC", &["A9999999A"], &["A9999999A"], is::sg_nric, &["nric", "fin", "uin"]),
    of("MX CURP", &["AAAA999999AAAAAAX9"], &["AAAA999999AAAAAAX9"], is::mx_curp, &["curp", "registro de población"]),
    of("DE pension insurance number", &["99999999A999"], &["99999999A999", "99_999999_A_999", "99 999999 A999"], is::de_pension, &["rentenversicherung", "sozialversicherung", "rvnr", "svnr"]),
    // Those that are found by how they are written.
    of("BR CPF", &["99999999999"], &["999.999.999-99"], is::br_cpf, &["cpf", "cadastro de pessoa"]),
    of("BR CNPJ", &["99999999999999"], &["99.999.999/9999-99"], is::br_cnpj, &["cnpj", "cadastro nacional"]),
    of("BE national register number", &["99999999999"], &["99.99.99-999.99", "99.99.99-999-99", "99-99-99 999-99"], is::be_national, &["rijksregister", "registre national", "insz", "niss", "nationaal nummer", "numéro national", "national register"]),
    of("SE personal identity number", &["9999999999", "999999999999"], &["999999-9999", "999999+9999", "19999999-9999", "18999999-9999"], is::se_person, &["personnummer", "personnr", "pnr", "samordningsnummer"]),
    of("DK CPR number", &["9999999999"], &["999999-9999"], is::dk_cpr, &["cpr", "cpr-nr", "personnummer"]),
    of("NO birth number", &["99999999999"], &["999999 99999"], is::no_birth, &["fødselsnummer", "fodselsnummer", "fnr", "personnummer", "d-nummer"]),
    of("AT social insurance number", &["9999999999"], &["9999 999999", "9999-999999"], is::at_insurance, &["svnr", "sv-nr", "sozialversicherung", "versicherungsnummer", "vsnr"]),
    of("DE tax identification number", &["99999999999"], &["99_999_999_999"], is::de_tax, &["steuer", "idnr", "id-nr", "tax", "stid", "identifikationsnummer"]),
    of("IN Aadhaar number", &["999999999999"], &["9999_9999_9999"], is::in_aadhaar, &["aadhaar", "aadhar", "uidai", "आधार"]),
    of("KR resident registration number", &["9999999999999"], &["999999-9999999"], is::kr_resident, &["rrn", "resident", "주민"]),
    of("ZA identity number", &["9999999999999"], &["999999 9999 999", "999999 9999 99 9"], is::za_identity, &["south africa", "rsa id", "sa id", "za id"]),
    of("CZ/SK birth number", &["9999999999", "999999999"], &["999999/9999"], is::cz_birth, &["rodné číslo", "rodne cislo", "rodn", "birth number"]),
    of("LV personal code", &["99999999999"], &["999999-99999"], is::lv_person, &["personas kods"]),
    of("CL RUT", &["99999999X", "9999999X"], &["99.999.999-X", "9.999.999-X"], is::cl_rut, &["rut", "rol único", "rol unico"]),
    of("AR CUIL", &["99999999999"], &["99-99999999-9"], is::ar_cuit, &["cuil", "cuit"]),
    of("TH identity number", &["9999999999999"], &["9-9999-99999-99-9", "9 9999 99999 99 9"], is::th_identity, &["บัตรประชาชน", "ประชาชน"]),
    of("MY identity card number", &["999999999999"], &["999999-99-9999"], is::my_identity, &["mykad", "my kad", "nric", "kad pengenalan"]),
    of("RU SNILS", &["99999999999"], &["999-999-999 99", "999-999-999-99"], is::ru_snils, &["snils", "снилс", "страхов"]),
    of(SOCIAL_SECURITY, &["999999999"], &["999-99-9999"], is::us_ssn, &["ssn", "ssns", "social security", "soc sec", "ss#"]),
    of("US taxpayer identification number", &["999999999"], &["999-99-9999"], is::us_itin, &["itin", "individual taxpayer"]),
    of("AU Medicare number", &["9999999999", "99999999999"], &["9999 99999 9", "9999-99999-9"], is::au_medicare, &["medicare"]),
    // Those that need a word.
    of("UK NHS number", &["9999999999"], &[], is::gb_nhs, &["nhs", "nhs_number", "health service", "health number", "chi"]),
    of("NL BSN", &["999999999"], &[], is::nl_bsn, &["bsn", "burgerservice", "sofi"]),
    of("PL PESEL", &["99999999999"], &[], is::pl_pesel, &["pesel"]),
    of("PT NIF", &["999999999"], &[], is::pt_nif, &["nif", "contribuinte", "fiscal"]),
    of("US NPI", &["9999999999"], &[], is::us_npi, &["npi", "national provider"]),
    of("CA social insurance number", &["999999999"], &[], is::ca_sin, &["sin", "sins", "social insurance", "assurance sociale", "nas"]),
    of("AU tax file number", &["999999999"], &[], is::au_tax, &["tfn", "tax file"]),
    of("JP My Number", &["999999999999"], &[], is::jp_my_number, &["my number", "mynumber", "individual number", "個人番号", "マイナンバー"]),
    of("TR identity number", &["99999999999"], &[], is::tr_identity, &["t.c.", "tckn", "tc", "kimlik"]),
    of("RO CNP", &["9999999999999"], &[], is::ro_cnp, &["cnp", "cod numeric"]),
    of("Baltic personal code", &["99999999999"], &[], is::baltic_person, &["isikukood", "asmens kod"]),
    of("HR OIB", &["99999999999"], &[], is::hr_oib, &["oib", "osobni identifikacijski"]),
    of("BG EGN", &["9999999999"], &[], is::bg_egn, &["egn", "егн"]),
    of("GR AMKA", &["99999999999"], &[], is::gr_amka, &["amka", "αμκα"]),
    of("IE PPS number", &["9999999A", "9999999AA"], &[], is::ie_pps, &["pps", "ppsn", "rsi"]),
    of("IL identity number", &["999999999"], &[], is::il_identity, &["teudat", "ת.ז", "תעודת"]),
    of("TW identity number", &["A999999999"], &[], is::tw_identity, &["身分證"]),
    of("RU tax number", &["999999999999"], &[], is::ru_tax, &["инн", "inn"]),
    of("UA tax number", &["9999999999"], &[], is::ua_tax, &["рнокпп", "іпн", "rntrc"]),
    of("DE health insurance number", &["A999999999"], &[], is::de_health, &["kvnr", "krankenvers", "krankenkass", "versichertennummer", "versicherten-nr"]),
    of("passport number", &["999999999", "A99999999", "AA9999999", "A9999999", "99AA99999", "AA999999", "XXXXXXXXX"], &[], is::passport, &["passport", "reisepass", "passeport", "pasaporte", "passaporto", "paspoort", "passnummer", "паспорт", "護照", "旅券"]),
];

/// A topic, its identifier and one of its compact forms.
type Form = (Topics, &'static Identifier, &'static [u8]);

/// By the length of the form.
static BY_LENGTH: LazyLock<Vec<Vec<Form>>> = LazyLock::new(|| {
    let mut all = vec![Vec::new(); LENGTH_MAX + 1];
    for (place, identifier) in ALL.iter().enumerate() {
        for form in identifier.compact {
            all[form.len()].push((1 << place, identifier, form.as_bytes()));
        }
    }
    all
});

pub const LENGTH_MIN: usize = 8;
pub const LENGTH_MAX: usize = 18;

/// Identifiers whose check a text without separators passes, and their topics, of those that are asked for.
pub fn passed(
    compact: &[u8],
    is_wanted: impl Fn(Topics, &'static Identifier) -> bool,
) -> impl Iterator<Item = (Topics, &'static Identifier)> {
    let of_length = BY_LENGTH.get(compact.len()).map(Vec::as_slice).unwrap_or_default();
    let wanted = of_length.iter().filter(move |(topic, of, _)| is_wanted(*topic, of));
    let passed = wanted.filter(|(_, of, form)| fits(compact, form) && (of.check)(compact));
    passed.map(|(topic, of, _)| (*topic, *of))
}

impl Identifier {
    pub fn is_told_by_columns(&self) -> bool {
        BY_COLUMN.contains(&self.name)
    }

    pub fn kind(&self) -> Kind {
        match self.name {
            SOCIAL_SECURITY => Kind::SocialSecurityNumber,
            name => Kind::Identifier(name),
        }
    }

    /// Whether a text with its separators has a form that is found without a word.
    pub fn is_by_itself(&self, text: &[u8]) -> bool {
        self.forms.iter().any(|form| fits(text, form.as_bytes()))
    }
}

fn fits(text: &[u8], form: &[u8]) -> bool {
    let fits = |(byte, form): (&u8, &u8)| match form {
        b'9' => byte.is_ascii_digit(),
        b'A' => byte.is_ascii_uppercase(),
        b'X' => byte.is_ascii_digit() || byte.is_ascii_uppercase(),
        b'_' => matches!(byte, b' ' | b'-' | b'.'),
        form => byte == form,
    };
    text.len() == form.len() && text.iter().zip(form).all(fits)
}

#[cfg(test)]
mod tests {
    use super::super::columns::identifiers;
    use super::*;

    /// As those who give them out, or python-stdnum, show them.
    #[rustfmt::skip]
    const EXAMPLES: [(&str, &str); 55] = [
        ("FR social security number", "295109912611193"), ("FR social security number", "253072B07300470"), ("ES DNI", "54362315-K"), ("ES NIE", "X2482300W"), ("IT codice fiscale", "RCCMNL83S18D969H"),
        ("UK National Insurance number", "AB123456C"), ("FI personal identity code", "131052-308T"), ("FI personal identity code", "131052A308T"), ("CH AHV number", "756.9217.0769.85"),
        ("US Medicare beneficiary identifier", "1EG4-TE5-MK73"), ("IN PAN", "AAPPV8261K"), ("CN resident identity number", "44011320141005001x"), ("SG NRIC", "S1234567D"), ("MX CURP", "BOXW310820HNERXN09"),
        ("DE pension insurance number", "15 070649 C 103"), ("BR CPF", "390.533.447-05"), ("BR CNPJ", "16.727.230/0001-97"), ("BE national register number", "85.07.30-033.28"), ("SE personal identity number", "880320-0016"),
        ("SE personal identity number", "19880320-0016"), ("DK CPR number", "211062-5629"), ("NO birth number", "151086 95088"), ("AT social insurance number", "1237 010180"), ("DE tax identification number", "36 574 261 809"),
        ("IN Aadhaar number", "2341 2341 2346"), ("KR resident registration number", "971013-9019902"), ("ZA identity number", "7503305044089"), ("CZ/SK birth number", "710319/2745"), ("LV personal code", "161175-19997"),
        ("CL RUT", "76.086.428-5"), ("AR CUIL", "20-05536168-2"), ("TH identity number", "1-2345-45678-78-1"), ("MY identity card number", "770305-02-1234"), ("RU SNILS", "112-233-445 95"), ("US taxpayer identification number", "912-90-3456"),
        ("AU Medicare number", "2123 45670 1"), ("UK NHS number", "943-476-5870"), ("NL BSN", "111222333"), ("PL PESEL", "44051401359"), ("PT NIF", "501964843"), ("US NPI", "1234567893"), ("CA social insurance number", "123-456-782"),
        ("AU tax file number", "123 456 782"), ("JP My Number", "621498320257"), ("TR identity number", "17291716060"), ("RO CNP", "1630615123457"), ("Baltic personal code", "36805280109"), ("HR OIB", "33392005961"),
        ("BG EGN", "7523169263"), ("GR AMKA", "01013099997"), ("IE PPS number", "6433435F"), ("IL identity number", "039337423"), ("TW identity number", "A123456789"), ("RU tax number", "123456789047"), ("UA tax number", "1759013776"),
    ];
    /// Those in which a wrong last letter is not noticed.
    const WITHOUT_CHECK: [&str; 9] = [
        "UK National Insurance number",
        "US Medicare beneficiary identifier",
        "IN PAN",
        "DK CPR number",
        "KR resident registration number",
        "MY identity card number",
        "US taxpayer identification number",
        "AU Medicare number",
        "passport number",
    ];

    fn is_of(text: &str, name: &str) -> bool {
        identifiers(text).iter().any(|(_, of)| of.name == name)
    }

    #[test]
    fn examples_pass_their_check_and_others_do_not() {
        for (name, text) in EXAMPLES {
            assert!(is_of(text, name), "{name}: {text}");
            let (rest, last) = text.split_at(text.len() - 1);
            let other = match last.as_bytes()[0] {
                b'9' => '0',
                b'Z' | b'x' => 'A',
                byte => (byte + 1) as char,
            };
            assert!(
                WITHOUT_CHECK.contains(&name) || !is_of(&format!("{rest}{other}"), name),
                "{name}: {rest}{other}"
            );
        }
        let tried = |of: &Identifier| EXAMPLES.iter().any(|(name, _)| *name == of.name);
        let untried: Vec<_> = ALL.iter().filter(|of| !tried(of)).map(|of| of.name).collect();
        assert_eq!(untried, ["social security number", "DE health insurance number", "passport number"]);
        assert!(
            is_of("A000500015", "DE health insurance number")
                && !is_of("A000500016", "DE health insurance number")
        );
        assert!(BY_COLUMN.iter().all(|name| ALL.iter().any(|of| of.name == *name)));
    }

    #[test]
    fn numbers_that_pass_by_chance_are_rare_where_no_word_is_needed() {
        const TRIED: u32 = 20_000;
        let mut state = 14_u64;
        let mut digit = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b'0' + ((state >> 33) % 10) as u8
        };
        for of in &ALL {
            for form in of.compact.iter().filter(|form| form.bytes().all(|byte| matches!(byte, b'9' | b'X')))
            {
                let mut passed = 0;
                for _ in 0..TRIED {
                    let text: Vec<u8> = (0..form.len()).map(|_| digit()).collect();
                    passed += u32::from((of.check)(&text));
                }
                let chance = f64::from(passed) / f64::from(TRIED);
                println!("| {} | {form} | {chance:.5} |", of.name);
                assert!(!of.is_told_by_columns() || chance < 0.12, "{}: {chance}", of.name);
                assert!(!of.forms.contains(form) || chance < 0.002, "{}: {chance}", of.name);
            }
        }
    }
}
