//! Numbers with digits behind the point as PostgreSQL's type `numeric` has them on the wire.

use std::error::Error;

use bytes::{BufMut as _, BytesMut};
use pgwire::types::ToSqlText;
use pgwire::types::format::FormatOptions;
use postgres_types::{IsNull, ToSql, Type, to_sql_checked};

/// A decimal number, written with all its digits.
#[derive(Debug)]
pub struct Numeric(String);

impl Numeric {
    /// `shorten`: zeros at the end, behind the point, say nothing.
    pub fn new(mut text: String, shorten: bool) -> Numeric {
        if shorten && text.contains('.') {
            text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
        }
        Numeric(text)
    }

    /// Digits to the base of 10,000 with the power of the first, the sign, and how many decimal digits stand behind the point.
    fn parts(&self) -> (Vec<i16>, i16, i16, i16) {
        let (negative, text) = match self.0.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, self.0.as_str()),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let padded = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
        let behind = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
        let digits = format!("{padded}{behind}");
        let group =
            |group: &[u8]| group.iter().fold(0_i16, |value, digit| value * 10 + i16::from(digit - b'0'));
        let mut groups: Vec<i16> = digits.as_bytes().chunks(4).map(group).collect();
        let mut weight = i16::try_from(padded.len() / 4).unwrap_or(i16::MAX) - 1;
        let zeros = groups.iter().take_while(|group| **group == 0).count();
        groups.drain(..zeros);
        weight -= i16::try_from(zeros).unwrap_or(0);
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let sign = if negative && !groups.is_empty() { 0x4000 } else { 0 };
        let weight = if groups.is_empty() { 0 } else { weight };
        (groups, weight, sign, i16::try_from(fraction.len()).unwrap_or(i16::MAX))
    }
}

impl ToSql for Numeric {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let (groups, weight, sign, scale) = self.parts();
        out.put_i16(i16::try_from(groups.len())?);
        out.put_i16(weight);
        out.put_i16(sign);
        out.put_i16(scale);
        groups.into_iter().for_each(|group| out.put_i16(group));
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl ToSqlText for Numeric {
    fn to_sql_text(
        &self,
        _: &Type,
        out: &mut BytesMut,
        _: &FormatOptions,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_groups_of_four_around_the_point() {
        for (text, groups, weight, sign, scale) in [
            ("0", vec![], 0, 0, 0),
            ("0.00", vec![], 0, 0, 2),
            ("1", vec![1], 0, 0, 0),
            ("-12345.67", vec![1, 2345, 6700], 1, 0x4000, 2),
            ("0.00001", vec![1000], -2, 0, 5),
            ("100000000", vec![1], 2, 0, 0),
            (
                "99999999999999999999999999999999999999",
                vec![99, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999],
                9,
                0,
                0,
            ),
        ] {
            assert_eq!(Numeric(text.into()).parts(), (groups, weight, sign, scale), "{text}");
        }
        assert_eq!(Numeric::new("1.5000000000".into(), true).0, "1.5");
        assert_eq!(Numeric::new("100.0000000000".into(), true).0, "100");
        assert_eq!(Numeric::new("1.50".into(), false).0, "1.50");
    }
}
