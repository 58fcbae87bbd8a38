//! Identifiers of data subjects as keyed hashes: what a register of requests keeps of them, and what rows are compared with.
//!
//! A value is compared in all forms in which systems write the same identifier ([`forms`]).
//!
//! Invariant: the hash has the label of the column in it, and is another one than that of masks, so that no pseudonym that an
//! analyst has seen names a request.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::Result;
use kafscale_audit::hex;
use ring::hmac;
use serde_json::Value;
use unicode_normalization::UnicodeNormalization as _;
use uuid::Uuid;

use crate::governed::masks::hmac_key;
use crate::shape::MaskKey;

/// The beginning of an HMAC-SHA-256.
pub type SubjectHash = [u8; HASH_BYTES];

const HASH_BYTES: usize = 16;
/// Up to here each whole number is one of its own among floating ones.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// No text that is compared begins so: it is what a column of numbers keeps of a whole number, which is not its zeros in front.
const NUMBER: &str = "\0n:";
/// The same of a larger one in a column of floating numbers, which is not all of its digits.
const ROUNDED: &str = "\0r:";

/// Hashes identifiers that stand in columns of one label.
#[derive(Clone)]
pub struct SubjectHasher(hmac::Key);

impl SubjectHasher {
    pub fn new(key: &MaskKey, label: &str) -> SubjectHasher {
        SubjectHasher(hmac_key(key, format!("erasure\0{label}").as_bytes()))
    }

    /// Of one form of a value.
    pub fn hash(&self, form: &str) -> SubjectHash {
        let mut hash = SubjectHash::default();
        hash.copy_from_slice(&hmac::sign(&self.0, form.as_bytes()).as_ref()[..HASH_BYTES]);
        hash
    }

    /// Of each value that is not NULL, in all of its forms.
    pub fn each(&self, values: &dyn Array, each: &mut dyn FnMut(usize, SubjectHash)) -> Result<()> {
        each_form(values, &mut |row, form| each(row, self.hash(form)))
    }
}

/// Says whether a key is still the one that hashes were made with.
pub fn key_check(key: &MaskKey) -> String {
    hex(&SubjectHasher::new(key, "").hash("key")[..8])
}

/// Whether values of such a type are compared. Short floating numbers hold no identifier as it was.
pub fn is_compared(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 => false,
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) => {
            is_compared(of.data_type())
        }
        DataType::Dictionary(_, of) => is_compared(of),
        other => !other.is_nested(),
    }
}

/// The forms of each value that is not NULL; of a list, those of its elements.
pub fn each_form(values: &dyn Array, each: &mut dyn FnMut(usize, &str)) -> Result<()> {
    let rows = (0..values.len()).filter(|row| values.is_valid(*row));
    let mut lists = |of: &dyn Fn(usize) -> ArrayRef| {
        rows.clone().try_for_each(|row| each_form(of(row).as_ref(), &mut |_, form| each(row, form)))
    };
    match values.data_type() {
        DataType::List(_) => return lists(&|row| values.as_list::<i32>().value(row)),
        DataType::LargeList(_) => return lists(&|row| values.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => return lists(&|row| values.as_fixed_size_list().value(row)),
        DataType::Dictionary(_, of) => return each_form(cast(values, of)?.as_ref(), each),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let bytes = cast(values, &DataType::Binary)?;
            let bytes = bytes.as_binary::<i32>();
            rows.for_each(|row| forms_of_bytes(bytes.value(row)).iter().for_each(|form| each(row, form)));
            return Ok(());
        }
        DataType::Float64 => {
            let numbers = values.as_primitive::<Float64Type>();
            rows.for_each(|row| forms_of_float(numbers.value(row)).iter().for_each(|form| each(row, form)));
            return Ok(());
        }
        _ => {}
    }
    let options = FormatOptions::new().with_display_error(false);
    let formatter = ArrayFormatter::try_new(values, &options)?;
    for row in rows {
        let mut all = forms(&formatter.value(row).try_to_string()?);
        if values.data_type().is_numeric() {
            all.extend(all.first().and_then(|form| number(form)));
        }
        all.iter().for_each(|form| each(row, form));
    }
    Ok(())
}

/// Whether a form is an identifier by itself: another identifier may be linked by it.
pub fn is_identifier(form: &str) -> bool {
    !form.starts_with('\0')
}

fn forms_of_float(value: f64) -> Vec<String> {
    let is_exact = value.abs() <= EXACT_MAX;
    let text = if is_exact && value.fract() == 0.0 { format!("{value:.0}") } else { value.to_string() };
    let beside = if is_exact { number(&text) } else { Some(format!("{ROUNDED}{value}")) };
    [text].into_iter().chain(beside).collect()
}

/// As a column of numbers has it.
fn number(text: &str) -> Option<String> {
    let digits = whole(text)?;
    let (sign, bare) = digits.strip_prefix('-').map_or(("", digits), |bare| ("-", bare));
    let bare = bare.trim_start_matches('0');
    Some(if bare.is_empty() { format!("{NUMBER}0") } else { format!("{NUMBER}{sign}{bare}") })
}

/// Readers of JSON do not all round to the nearest.
fn rounded(text: &str) -> Vec<String> {
    let Some(digits) = whole(text) else { return Vec::new() };
    let values: [Option<f64>; 2] = [digits.parse().ok(), serde_json::from_str(digits).ok()];
    let large = values.into_iter().flatten().filter(|value| value.abs() > EXACT_MAX);
    large.map(|value| format!("{ROUNDED}{value}")).collect()
}

/// An identifier as other systems write it, of which a mask makes other pseudonyms.
pub fn spellings(text: &str) -> BTreeSet<String> {
    let plain = plain(text.trim());
    let mut all = BTreeSet::from([text.to_owned(), plain.clone()]);
    if whole(&plain).is_some() {
        all.insert(format!("{plain}.0"));
    } else if let Some(uuid) = Uuid::try_parse(&plain).ok().filter(|_| plain.len() >= 32) {
        let (hyphens, bare) = (uuid.hyphenated().to_string(), uuid.simple().to_string());
        all.extend([hyphens.to_uppercase(), bare.to_uppercase(), hyphens, bare]);
    }
    all
}

/// The forms in which a text is compared: its scalars where it is JSON, and itself. Without spaces around it; a whole number without
/// a plus or a fraction of zeros; a UUID and an address of mail in small letters; letters and their accents in one character.
pub fn forms(text: &str) -> Vec<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let mut forms = Vec::new();
    if text.starts_with(['"', '[', '{'])
        && let Ok(value) = serde_json::from_str(text)
    {
        of_json(&value, &mut forms);
    }
    if !text.is_empty() {
        forms.push(plain(text));
    }
    forms
}

fn of_json(value: &Value, forms: &mut Vec<String>) {
    match value {
        Value::String(text) => forms.push(plain(text.trim())),
        Value::Number(number) => {
            let text = plain(&number.to_string());
            forms.extend(self::number(&text));
            forms.push(text);
            // It has been rounded.
            let rounded = number.as_f64().filter(|_| number.is_f64());
            forms.extend(rounded.into_iter().flat_map(forms_of_float));
        }
        Value::Array(all) => all.iter().for_each(|value| of_json(value, forms)),
        Value::Object(all) => all.values().for_each(|value| of_json(value, forms)),
        Value::Null | Value::Bool(_) => {}
    }
}

fn plain(text: &str) -> String {
    if let Some(number) = whole(text) {
        return number.to_owned();
    }
    if text.len() >= 32
        && let Ok(uuid) = Uuid::try_parse(text)
    {
        return uuid.hyphenated().to_string();
    }
    let text: String = if text.is_ascii() { text.to_owned() } else { text.nfc().collect() };
    if text.contains('@') { text.to_lowercase() } else { text }
}

/// A whole number as it is written with nothing beside its digits. Zeros in front are a part of it: 007 is not 7.
fn whole(text: &str) -> Option<&str> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, zeros) = text.split_once('.').unwrap_or((text, ""));
    let bare = digits.strip_prefix('-').unwrap_or(digits);
    let is_whole = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit());
    (is_whole && zeros.bytes().all(|b| b == b'0')).then_some(digits)
}

/// Bytes are a text, sixteen of them a UUID, and any of them digits.
fn forms_of_bytes(bytes: &[u8]) -> Vec<String> {
    let mut all = std::str::from_utf8(bytes).map(forms).unwrap_or_default();
    all.extend(Uuid::from_slice(bytes).ok().map(|uuid| uuid.hyphenated().to_string()));
    all.push(format!("hex:{}", hex(bytes)));
    all
}

/// The forms of an identifier that somebody gave, who may have written bytes as digits, and zeros in front that a column of numbers
/// does not keep.
pub fn forms_given(text: &str) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = forms(text).into_iter().collect();
    all.extend(number(text.trim()));
    all.extend(rounded(text.trim()));
    let bare = text.trim().to_ascii_lowercase();
    let digits = bare.strip_prefix("0x").or_else(|| bare.strip_prefix("\\x")).unwrap_or(&bare);
    if digits.len() >= 6 && digits.len().is_multiple_of(2) && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        all.insert(format!("hex:{digits}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array,
        LargeStringArray, ListArray, StringArray, StringViewArray,
    };
    use arrow::datatypes::Int64Type;

    use super::*;

    const ID: &str = "0192F8A0-5B7C-7D3E-8F10-1A2B3C4D5E6F";

    fn key(secret: u8) -> MaskKey {
        MaskKey { name: "k".to_owned(), secret: Arc::from([secret; 32]) }
    }

    fn rows_of(given: &str, values: &dyn Array) -> Vec<usize> {
        let hasher = SubjectHasher::new(&key(1), "l");
        let wanted: HashSet<_> = forms_given(given).iter().map(|form| hasher.hash(form)).collect();
        let mut rows = Vec::new();
        let mut each = |row, hash| {
            if wanted.contains(&hash) {
                rows.push(row);
            }
        };
        hasher.each(values, &mut each).unwrap();
        rows.dedup();
        rows
    }

    #[test]
    fn the_same_identifier_is_found_however_it_is_written() {
        let texts =
            ["4711", " 4711\t", "+4711", "4711.0", "\"4711\"", "[1, 4711]", r#"{"id": "4711"}"#, "4711.00"];
        let others = vec!["04711", "47110", "-4711", "4711.5", "4711a", "", "[47, 11]", "{4711", "4 711"];
        let all: Vec<&str> = texts.iter().chain(&others).copied().collect();
        let expected: Vec<usize> = (0..texts.len()).collect();
        for given in ["4711", "4711.0", " +4711"] {
            assert_eq!(rows_of(given, &StringArray::from(all.clone())), expected, "{given}");
            assert_eq!(rows_of(given, &StringViewArray::from(all.clone())), expected);
            assert_eq!(rows_of(given, &LargeStringArray::from(all.clone())), expected);
            assert_eq!(rows_of(given, &Int32Array::from(vec![Some(4711), None, Some(4712)])), [0]);
            assert_eq!(rows_of(given, &Float64Array::from(vec![4711.5, 4711.0, f64::NAN])), [1]);
            let decimal = Decimal128Array::from(vec![471_100, 471_150]).with_precision_and_scale(10, 2);
            assert_eq!(rows_of(given, &decimal.unwrap()), [0]);
            let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
                Some(vec![Some(1), None]),
                None,
                Some(vec![Some(2), Some(4711)]),
            ]);
            assert_eq!(rows_of(given, &lists), [2]);
            assert_eq!(rows_of(given, &BinaryArray::from(vec![&b"4711\0\0"[..], b"\xff4711"])), [0]);
        }
    }

    #[test]
    fn uuids_bytes_mail_and_accents_are_found() {
        let uuid = Uuid::parse_str(ID).unwrap();
        let texts = vec![ID.to_owned(), ID.to_lowercase(), ID.replace('-', ""), format!("{{{ID}}}")];
        let fixed = FixedSizeBinaryArray::try_from_iter([uuid.as_bytes()].into_iter()).unwrap();
        for given in [ID.to_owned(), ID.to_lowercase(), ID.replace('-', "")] {
            assert_eq!(rows_of(&given, &StringArray::from(texts.clone())), [0, 1, 2, 3], "{given}");
            assert_eq!(rows_of(&given, &fixed), [0]);
            assert_eq!(rows_of(&given, &BinaryArray::from(vec![&uuid.as_bytes()[..], b"x"])), [0]);
        }
        let bytes = BinaryArray::from(vec![&[0xff, 0x00, 0xab][..], b"\xff\x00"]);
        for given in ["ff00ab", "0xFF00AB", "\\xff00ab"] {
            assert_eq!(rows_of(given, &bytes), [0], "{given}");
        }
        assert_eq!(rows_of("Ann@X.org", &StringArray::from(vec!["ann@x.org", "bob@x.org"])), [0]);
        assert_eq!(rows_of("Zo\u{eb}", &StringArray::from(vec!["Zoe\u{308}", "Zoe"])), [0]);
        assert!(
            is_compared(fixed.data_type())
                && !is_compared(&DataType::Struct(arrow::datatypes::Fields::empty()))
        );
    }

    #[test]
    fn a_hash_is_of_its_key_and_its_label() {
        let hash = |secret, label| SubjectHasher::new(&key(secret), label).hash("7");
        let all = HashSet::from([hash(1, "a"), hash(2, "a"), hash(1, "b")]);
        assert!(all.len() == 3 && key_check(&key(1)) != key_check(&key(2)));
    }

    /// What a column of numbers has lost of them.
    #[test]
    fn zeros_in_front_and_long_numbers_are_found_in_columns_of_numbers() {
        let texts = StringArray::from(vec!["7", "007", "7.0", "-7"]);
        for (given, of_texts) in [("007", vec![1]), ("7", vec![0, 2]), ("-007", vec![])] {
            let sign = if given.starts_with('-') { -1 } else { 1 };
            assert_eq!(rows_of(given, &texts), of_texts, "{given}");
            assert_eq!(rows_of(given, &Int64Array::from(vec![7 * sign, 70, 0])), [0], "{given}");
            assert_eq!(rows_of(given, &Float64Array::from(vec![7.0 * f64::from(sign as i32), 0.7])), [0]);
        }
        assert_eq!(rows_of("000", &Int64Array::from(vec![1, 0])), [1]);
        let long = "12345678901234567";
        let floats = Float64Array::from(vec![12_345_678_901_234_567.0, 12_345_678_901_234_600.0]);
        assert_eq!(rows_of(long, &floats), [0]);
        assert_eq!(
            rows_of(long, &Int64Array::from(vec![12_345_678_901_234_567, 12_345_678_901_234_568])),
            [0]
        );
        let json = StringArray::from(vec!["[123456789012345678901]", "[123456789012345600000]"]);
        assert_eq!(rows_of("123456789012345678901", &json), [0]);
        assert!(!is_compared(&DataType::Float32) && is_compared(&DataType::Float64));
    }

    #[test]
    fn spellings_are_those_that_masks_are_given() {
        let all = |text: &str| spellings(text).into_iter().collect::<Vec<_>>();
        assert_eq!(all("4711"), ["4711", "4711.0"]);
        assert_eq!(all("M-7"), ["M-7"]);
        let uuid = all(ID);
        assert!(uuid.len() == 4 && uuid.contains(&ID.replace('-', "")) && uuid.contains(&ID.to_lowercase()));
    }
}
