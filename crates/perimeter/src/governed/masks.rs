//! What masks make of values.
//!
//! Invariant: a mask never fails, and NULL stays NULL. A value that a mask cannot be applied to becomes NULL.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, Float64Array, PrimitiveArray, StringArray, StringBuilder, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

use crate::shape::{DatePart, Mask, MaskKey};

/// Bytes of a hash that are shown.
const HASH_BYTES: usize = 16;
const TOKEN_PREFIX: &str = "tok_";
/// What does not fit becomes NULL.
const SAFE: CastOptions<'static> = CastOptions { safe: true, format_options: FormatOptions::new() };

/// The type of a masked column.
pub fn masked_type(mask: &Mask, of: &DataType) -> DataType {
    match mask {
        Mask::Null => of.clone(),
        Mask::Fixed(_) | Mask::Hash(_) | Mask::Tokenise(_) | Mask::KeepLast(_) => DataType::Utf8,
        Mask::Date(_) if of.is_temporal() || is_text(of) => of.clone(),
        Mask::Bucket(_) if of.is_numeric() => of.clone(),
        Mask::Date(_) | Mask::Bucket(_) => of.clone(),
    }
}

fn is_text(of: &DataType) -> bool {
    matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The masked values, of the type that [`masked_type`] says.
pub fn apply(mask: &Mask, values: &ArrayRef) -> ArrayRef {
    let nothing = || new_null_array(&masked_type(mask, values.data_type()), values.len());
    match mask {
        Mask::Null => nothing(),
        Mask::Fixed(text) => each_text(values, |_, out| out.push_str(text)),
        Mask::Hash(key) => {
            let key = hmac_key(key, b"hash");
            each_text(values, |text, out| {
                for byte in &hmac::sign(&key, text.as_bytes()).as_ref()[..HASH_BYTES] {
                    let _ = write!(out, "{byte:02x}");
                }
            })
        }
        Mask::Tokenise(key) => match Tokens::new(key) {
            Some(tokens) => each_text(values, |text, out| out.push_str(&tokens.seal(text))),
            None => nothing(),
        },
        Mask::KeepLast(count) => each_text(values, |text, out| keep_last(text, *count, out)),
        Mask::Date(part) => truncated(values, *part).unwrap_or_else(nothing),
        Mask::Bucket(width) => bucketed(values, *width).unwrap_or_else(nothing),
    }
}

/// Makes a text of each value that is not NULL, from its text.
fn each_text(values: &ArrayRef, mut make: impl FnMut(&str, &mut String)) -> ArrayRef {
    let mut out = StringBuilder::with_capacity(values.len(), values.len() * 16);
    let options = FormatOptions::new();
    let Ok(formatter) = ArrayFormatter::try_new(values.as_ref(), &options) else {
        return new_null_array(&DataType::Utf8, values.len());
    };
    let (mut text, mut made) = (String::new(), String::new());
    for row in 0..values.len() {
        text.clear();
        made.clear();
        if values.is_null(row) || formatter.value(row).write(&mut text).is_err() {
            out.append_null();
            continue;
        }
        make(&text, &mut made);
        out.append_value(&made);
    }
    Arc::new(out.finish())
}

fn keep_last(text: &str, count: u32, out: &mut String) {
    let length = text.chars().count();
    let kept = usize::try_from(count).unwrap_or(usize::MAX);
    // A text of which everything would be kept is masked whole.
    let hidden = if length > kept { length - kept } else { length };
    out.extend(std::iter::repeat_n('*', hidden));
    out.extend(text.chars().skip(hidden));
}

pub fn hmac_key(key: &MaskKey, purpose: &[u8]) -> hmac::Key {
    let root = hmac::Key::new(hmac::HMAC_SHA256, &key.secret);
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose).as_ref())
}

/// Deterministic encryption: AES-256-GCM, whose nonce is a hash of the text with a key of its own, so that only equal texts have
/// equal nonces.
pub struct Tokens {
    sealing: LessSafeKey,
    nonces: hmac::Key,
}

impl Tokens {
    pub fn new(key: &MaskKey) -> Option<Tokens> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, &key.secret);
        let sealing = UnboundKey::new(&AES_256_GCM, hmac::sign(&root, b"token").as_ref()).ok()?;
        Some(Tokens { sealing: LessSafeKey::new(sealing), nonces: hmac_key(key, b"nonce") })
    }

    pub fn seal(&self, text: &str) -> String {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&hmac::sign(&self.nonces, text.as_bytes()).as_ref()[..NONCE_LEN]);
        let mut sealed = text.as_bytes().to_vec();
        let at = Nonce::assume_unique_for_key(nonce);
        self.sealing
            .seal_in_place_append_tag(at, Aad::empty(), &mut sealed)
            .expect("it is shorter than AES-GCM takes");
        let bytes = [nonce.as_slice(), &sealed].concat();
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The text of a token of this key.
    pub fn open(&self, token: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(TOKEN_PREFIX)?).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let text = self.sealing.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

fn cast(values: &dyn Array, to: &DataType) -> Option<ArrayRef> {
    cast_with_options(values, to, &SAFE).ok()
}

fn truncated(values: &ArrayRef, part: DatePart) -> Option<ArrayRef> {
    let day = |date: NaiveDate| match part {
        DatePart::Year => NaiveDate::from_ymd_opt(date.year(), 1, 1),
        DatePart::Quarter => NaiveDate::from_ymd_opt(date.year(), date.month0() / 3 * 3 + 1, 1),
        DatePart::Month => NaiveDate::from_ymd_opt(date.year(), date.month(), 1),
        DatePart::Day => Some(date),
    };
    match values.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(values, &DataType::Utf8)?;
            let texts = texts.as_string::<i32>();
            // The date at the beginning of the text; what follows, such as a time, is left out.
            let of = |text: &str| text.get(..10)?.parse().ok().and_then(day).map(|date| date.to_string());
            let made: StringArray = texts.iter().map(|text| text.and_then(of)).collect();
            cast(&made, values.data_type())
        }
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let micros = cast(values, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let of = |at: i64| {
                let date = day(DateTime::from_timestamp_micros(at)?.date_naive())?;
                Some(date.and_time(NaiveTime::MIN).and_utc().timestamp_micros())
            };
            let made: PrimitiveArray<TimestampMicrosecondType> =
                micros.as_primitive::<TimestampMicrosecondType>().iter().map(|at| at.and_then(of)).collect();
            if let DataType::Timestamp(_, Some(zone)) = values.data_type() {
                return cast(&made.with_timezone("UTC"), values.data_type()).filter(|_| !zone.is_empty());
            }
            cast(&made, values.data_type())
        }
        _ => None,
    }
}

fn bucketed(values: &ArrayRef, width: f64) -> Option<ArrayRef> {
    let of = values.data_type();
    if !of.is_numeric() || width.is_nan() || width <= 0.0 {
        return None;
    }
    if of.is_integer() && width.fract() == 0.0 && width < 9e15 {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole, and below 2^53")]
        let width = width as i64;
        let whole = cast(values, &DataType::Int64)?;
        let made: PrimitiveArray<Int64Type> = whole
            .as_primitive::<Int64Type>()
            .iter()
            .map(|value| value.and_then(|value| value.div_euclid(width).checked_mul(width)))
            .collect();
        return cast(&made, of);
    }
    let numbers = cast(values, &DataType::Float64)?;
    let numbers = numbers.as_primitive::<Float64Type>();
    let made: Float64Array =
        numbers.iter().map(|value| value.map(|value| (value / width).floor() * width)).collect();
    cast(&made, of)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Int32Array};
    use arrow::datatypes::Date32Type;

    use super::*;

    fn date32(text: &str) -> i32 {
        Date32Type::from_naive_date(text.parse().expect("a date"))
    }

    fn key() -> MaskKey {
        MaskKey { name: "k".to_owned(), secret: Arc::from(b"a secret of thirty-two bytes....".as_slice()) }
    }

    fn texts(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(values.iter().copied().collect::<StringArray>())
    }

    #[test]
    fn null_stays_null_and_types_are_as_stated() {
        let masks = [
            Mask::Null,
            Mask::Fixed("x".to_owned()),
            Mask::Hash(key()),
            Mask::Tokenise(key()),
            Mask::KeepLast(4),
            Mask::Date(DatePart::Month),
            Mask::Bucket(10.0),
        ];
        let columns: [ArrayRef; 3] = [
            texts(&[None, Some("2026-05-17"), Some("")]),
            Arc::new(Int32Array::from(vec![None, Some(-7), Some(25)])),
            Arc::new(Date32Array::from(vec![None, Some(0), Some(20_000)])),
        ];
        for mask in &masks {
            for column in &columns {
                let made = apply(mask, column);
                assert_eq!(made.data_type(), &masked_type(mask, column.data_type()), "{mask:?}");
                assert_eq!(made.len(), 3);
                assert!(made.is_null(0), "{mask:?}");
            }
        }
    }

    #[test]
    fn the_last_characters_are_kept_of_longer_texts_only() {
        let made = apply(
            &Mask::KeepLast(4),
            &texts(&[Some("4111111111111111"), Some("1234"), Some("zürich"), Some("")]),
        );
        let expected = texts(&[Some("************1111"), Some("****"), Some("**rich"), Some("")]);
        assert_eq!(&made, &expected);
    }

    #[test]
    fn dates_and_numbers_are_rounded_down() {
        let made =
            apply(&Mask::Date(DatePart::Quarter), &texts(&[Some("2026-05-17T10:00:00Z"), Some("yesterday")]));
        assert_eq!(&made, &texts(&[Some("2026-04-01"), None]));
        let days: ArrayRef = Arc::new(Date32Array::from(vec![date32("1931-12-31")]));
        let made = apply(&Mask::Date(DatePart::Year), &days);
        assert_eq!(made.as_primitive::<Date32Type>().value(0), date32("1931-01-01"));
        let made = apply(&Mask::Bucket(10.0), &(Arc::new(Int32Array::from(vec![-7, 0, 39])) as ArrayRef));
        assert_eq!(made.as_primitive::<arrow::datatypes::Int32Type>().values(), &[-10, 0, 30]);
    }

    #[test]
    fn tokens_can_be_had_back_with_their_key_only() {
        let tokens = Tokens::new(&key()).expect("a key");
        let made = apply(&Mask::Tokenise(key()), &texts(&[Some("Ada"), Some("Ada"), Some("Bob")]));
        let made = made.as_string::<i32>();
        assert_eq!(made.value(0), made.value(1));
        assert_ne!(made.value(0), made.value(2));
        assert_eq!(tokens.open(made.value(2)).as_deref(), Some("Bob"));
        let other = MaskKey { name: "o".to_owned(), secret: Arc::from(b"another".as_slice()) };
        assert_eq!(Tokens::new(&other).expect("a key").open(made.value(2)), None);
        for garbage in ["", "tok_", "tok_!!", "tok_AAAA", "Bob"] {
            assert_eq!(tokens.open(garbage), None, "{garbage}");
        }
    }

    /// Who writes to a table has nothing hashed there as it is elsewhere.
    #[test]
    fn a_key_of_its_own_makes_other_pseudonyms() {
        use crate::shape::TableName;
        let values = texts(&[Some("Ada")]);
        let tables = [
            TableName::new("monitors", "out"),
            TableName::new("monitors", "in"),
            TableName::new("monitorso", "ut"),
        ];
        for mask in [Mask::Hash(key()), Mask::Tokenise(key())] {
            let mut made: Vec<String> = tables
                .iter()
                .map(|table| mask.clone().with_key_of(table))
                .chain([mask.clone()])
                .map(|mask| apply(&mask, &values).as_string::<i32>().value(0).to_owned())
                .collect();
            made.dedup();
            made.sort();
            made.dedup();
            assert_eq!(made.len(), 4, "{mask:?}");
        }
        assert_eq!(Mask::KeepLast(4).with_key_of(&tables[0]), Mask::KeepLast(4));
    }

    #[test]
    fn equal_values_have_equal_hashes_whatever_their_type() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![5]));
        assert_eq!(&apply(&Mask::Hash(key()), &numbers), &apply(&Mask::Hash(key()), &texts(&[Some("5")])));
    }
}
