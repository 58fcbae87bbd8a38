//! Check digits and dates of identifiers, over their ASCII letters (upper case) and digits without separators.
//!
//! Invariant: [`super::identifiers`] has checked the length, and where letters and digits are.

/// The digits of a text; letters count as 0, and are checked apart.
fn digits(text: &[u8]) -> impl DoubleEndedIterator<Item = u32> + Clone {
    text.iter().map(|byte| if byte.is_ascii_digit() { u32::from(byte - b'0') } else { 0 })
}

pub fn number(text: &[u8]) -> u64 {
    digits(text).fold(0, |number: u64, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit)))
}

fn at(text: &[u8], place: usize) -> u32 {
    digits(&text[place..=place]).next().unwrap_or(0)
}

/// Whether all are the same, as in numbers that stand for none.
fn is_one_digit(text: &[u8]) -> bool {
    text.iter().all(|byte| *byte == text[0])
}

fn weighted(text: &[u8], weights: &[u32]) -> u32 {
    digits(text).zip(weights).map(|(digit, weight)| digit * weight).sum()
}

/// ISO/IEC 7812.
pub fn luhn(text: &[u8]) -> bool {
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 = digits(text)
        .rev()
        .enumerate()
        .map(|(place, digit)| if place % 2 == 0 { digit } else { doubled(digit) })
        .sum();
    sum.is_multiple_of(10)
}

/// ISO/IEC 7064, MOD 11,10.
fn mod_11_10(text: &[u8]) -> bool {
    let of = |check: u32, digit: u32| (if check == 0 { 10 } else { check } * 2 % 11 + digit) % 10;
    digits(text).fold(5, of) == 1
}

/// ISO 13616: the remainder by 97 is 1.
pub fn mod_97(text: &[u8]) -> bool {
    let (head, tail) = text.split_at(4);
    let value = |byte: &u8| (*byte as char).to_digit(36);
    let rest = tail.iter().chain(head).map(value).try_fold(0_u32, |rest, value| {
        value.map(|value| if value < 10 { (rest * 10 + value) % 97 } else { (rest * 100 + value) % 97 })
    });
    rest == Some(1)
}

fn verhoeff(text: &[u8]) -> bool {
    const TURNED: [[u32; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    // The dihedral group of order 10.
    let times = |a: u32, b: u32| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => 5 + (a + b - 5) % 5,
        (false, true) => 5 + (a + 5 - b - 5 + 5) % 5,
        (false, false) => (a + 5 - b) % 5,
    };
    let turned = |(place, digit): (usize, u32)| TURNED[place % 8][digit as usize];
    digits(text).rev().enumerate().map(turned).fold(0, times) == 0
}

/// A day of a month of any year.
pub fn is_day(month: u32, day: u32) -> bool {
    let longest = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 29,
        _ => 0,
    };
    (1..=longest).contains(&day)
}

/// MMDD, or DDMM the other way round.
fn is_mmdd(text: &[u8]) -> bool {
    is_day(number(&text[..2]) as u32, number(&text[2..4]) as u32)
}

fn is_ddmm(text: &[u8]) -> bool {
    is_day(number(&text[2..4]) as u32, number(&text[..2]) as u32)
}

/// A month to which a multiple of 20 was added for the century.
fn is_mmdd_of_a_century(text: &[u8]) -> bool {
    is_day(number(&text[..2]) as u32 % 20, number(&text[2..4]) as u32)
}

pub fn de_tax(text: &[u8]) -> bool {
    let mut counts = [0_u32; 10];
    digits(&text[..10]).for_each(|digit| counts[digit as usize] += 1);
    let most = counts.iter().max().copied().unwrap_or(0);
    // One digit is there twice or three times, and no other more than once.
    let is_shaped = matches!(most, 2 | 3) && counts.iter().filter(|count| **count > 1).count() == 1;
    at(text, 0) != 0 && is_shaped && mod_11_10(text)
}

pub fn de_pension(text: &[u8]) -> bool {
    // Days of a birth are given twice, where 50 was added to them.
    let day = number(&text[2..4]) as u32 % 50;
    let letter = u32::from(text[8] - b'A') + 1;
    let numbers = digits(&text[..8]).chain([letter / 10, letter % 10]).chain(digits(&text[9..11]));
    let product = |(digit, weight): (u32, u32)| digit * weight / 10 + digit * weight % 10;
    let sum: u32 = numbers.zip([2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1]).map(product).sum();
    is_day(number(&text[4..6]) as u32, day) && sum % 10 == at(text, 11)
}

pub fn de_health(text: &[u8]) -> bool {
    let letter = u32::from(text[0] - b'A') + 1;
    let numbers = [letter / 10, letter % 10].into_iter().chain(digits(&text[1..9]));
    let product = |(digit, weight): (u32, u32)| digit * weight / 10 + digit * weight % 10;
    let sum: u32 = numbers.zip([1, 2].into_iter().cycle()).map(product).sum();
    sum % 10 == at(text, 9)
}

pub fn gb_nhs(text: &[u8]) -> bool {
    let rest = weighted(text, &[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]) % 11;
    rest == 0 && !is_one_digit(text)
}

pub fn gb_insurance(text: &[u8]) -> bool {
    let prefix = &text[..2];
    !b"DFIQUV".contains(&text[0])
        && !b"DFIOQUV".contains(&text[1])
        && ![b"BG", b"GB", b"KN", b"NK", b"NT", b"TN", b"ZZ"]
            .contains(&<&[u8; 2]>::try_from(prefix).unwrap_or(b"ZZ"))
        && (b'A'..=b'D').contains(&text[8])
}

pub fn fr_nir(text: &[u8]) -> bool {
    let month = number(&text[3..5]);
    // Corsica has letters.
    let less = match &text[5..7] {
        b"2A" => 1_000_000,
        b"2B" => 2_000_000,
        other if other[1].is_ascii_digit() => 0,
        _ => return false,
    };
    let corsican = [&text[..5], b"20", &text[7..13]].concat();
    let of = if less == 0 { number(&text[..13]) } else { number(&corsican) - less };
    matches!(text[0], b'1' | b'2' | b'7' | b'8')
        && matches!(month, 1..=12 | 20 | 30..=42)
        && 97 - of % 97 == number(&text[13..])
}

const SPANISH: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";

pub fn es_dni(text: &[u8]) -> bool {
    SPANISH[(number(&text[..8]) % 23) as usize] == text[8]
}

pub fn es_nie(text: &[u8]) -> bool {
    (b'X'..=b'Z').contains(&text[0])
        && SPANISH[((u64::from(text[0] - b'X') * 10_000_000 + number(&text[1..8])) % 23) as usize] == text[8]
}

pub fn it_fiscal(text: &[u8]) -> bool {
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let value = |byte: u8| u32::from(if byte.is_ascii_digit() { byte - b'0' } else { byte - b'A' });
    // Digits may be letters, where two people would have the same.
    let is_digit = |place: usize| text[place].is_ascii_digit() || b"LMNPQRSTUV".contains(&text[place]);
    let sum: u32 = text[..15]
        .iter()
        .enumerate()
        .map(|(place, byte)| if place % 2 == 0 { ODD[value(*byte) as usize] } else { value(*byte) })
        .sum();
    [6, 7, 9, 10, 12, 13, 14].into_iter().all(is_digit)
        && b"ABCDEHLMPRST".contains(&text[8])
        && u32::from(text[15] - b'A') == sum % 26
}

pub fn nl_bsn(text: &[u8]) -> bool {
    let sum = weighted(&text[..8], &[9, 8, 7, 6, 5, 4, 3, 2]);
    !is_one_digit(text) && sum % 11 == at(text, 8)
}

pub fn pl_pesel(text: &[u8]) -> bool {
    is_mmdd_of_a_century(&text[2..6]) && weighted(text, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).is_multiple_of(10)
}

pub fn se_person(text: &[u8]) -> bool {
    let (century, text) = text.split_at(text.len() - 10);
    let day = number(&text[4..6]) as u32;
    // Numbers of coordination have 60 more.
    let day = if day > 60 { day - 60 } else { day };
    matches!(century, b"" | b"18" | b"19" | b"20") && is_day(number(&text[2..4]) as u32, day) && luhn(text)
}

pub fn dk_cpr(text: &[u8]) -> bool {
    is_ddmm(text)
}

pub fn fi_hetu(text: &[u8]) -> bool {
    let order = &text[text.len() - 4..text.len() - 1];
    let century = &text[6..text.len() - 4];
    let place = (number(&text[..6]) * 1_000 + number(order)) % 31;
    (century.is_empty() || b"ABCDEFUVWXY".contains(&century[0]))
        && is_ddmm(text)
        && number(order) > 1
        && b"0123456789ABCDEFHJKLMNPRSTUVWXY"[place as usize] == text[text.len() - 1]
}

pub fn no_birth(text: &[u8]) -> bool {
    let day = number(&text[..2]) as u32;
    let month = number(&text[2..4]) as u32;
    is_day(month % 40, if day > 40 { day - 40 } else { day })
        && weighted(text, &[3, 7, 6, 1, 8, 9, 4, 5, 2, 1]).is_multiple_of(11)
        && weighted(text, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11)
}

pub fn be_national(text: &[u8]) -> bool {
    let (of, check) = (number(&text[..9]), number(&text[9..]));
    let month = number(&text[2..4]) % 20;
    month <= 12
        && number(&text[4..6]) <= 31
        && (97 - of % 97 == check || 97 - (of + 2_000_000_000) % 97 == check)
}

pub fn ch_ahv(text: &[u8]) -> bool {
    let weights = [1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1];
    text.starts_with(b"756") && weighted(text, &weights).is_multiple_of(10)
}

pub fn at_insurance(text: &[u8]) -> bool {
    let month = number(&text[6..8]) as u32;
    at(text, 0) != 0
        && (is_day(month, number(&text[4..6]) as u32) || (13..=15).contains(&month))
        && weighted(text, &[3, 7, 9, 0, 5, 8, 4, 2, 1, 6]) % 11 == at(text, 3)
}

pub fn pt_nif(text: &[u8]) -> bool {
    let check = 11 - weighted(&text[..8], &[9, 8, 7, 6, 5, 4, 3, 2]) % 11;
    !matches!(text[0], b'0' | b'4' | b'7') && check % 11 % 10 == at(text, 8)
}

pub fn us_ssn(text: &[u8]) -> bool {
    !matches!(&text[..3], b"000" | b"666") && text[0] != b'9' && &text[3..5] != b"00" && &text[5..] != b"0000"
}

pub fn us_itin(text: &[u8]) -> bool {
    text[0] == b'9' && matches!(number(&text[3..5]), 50..=65 | 70..=88 | 90..=92 | 94..=99)
}

pub fn us_npi(text: &[u8]) -> bool {
    matches!(text[0], b'1' | b'2') && luhn(&[b"80840", text].concat())
}

pub fn us_mbi(text: &[u8]) -> bool {
    text[0] != b'0' && !text.iter().any(|byte| b"SLOIBZ".contains(byte))
}

pub fn ca_sin(text: &[u8]) -> bool {
    !matches!(text[0], b'0' | b'8') && luhn(text)
}

pub fn au_tax(text: &[u8]) -> bool {
    weighted(text, &[1, 4, 3, 7, 5, 8, 6, 9, 10]).is_multiple_of(11) && !is_one_digit(text)
}

pub fn au_medicare(text: &[u8]) -> bool {
    (b'2'..=b'6').contains(&text[0]) && weighted(&text[..8], &[1, 3, 7, 9, 1, 3, 7, 9]) % 10 == at(text, 8)
}

pub fn in_aadhaar(text: &[u8]) -> bool {
    text[0] > b'1' && verhoeff(text) && !text.iter().eq(text.iter().rev())
}

pub fn in_pan(text: &[u8]) -> bool {
    b"ABCEFGHJKLPT".contains(&text[3]) && &text[5..9] != b"0000"
}

/// Two digits by the remainder by 11 of those before each.
fn by_11_twice(text: &[u8], weights: &[u32]) -> bool {
    let check = |weights: &[u32]| match weighted(text, weights) % 11 {
        0 | 1 => 0,
        rest => 11 - rest,
    };
    let length = text.len();
    check(&weights[1..]) == at(text, length - 2) && check(weights) == at(text, length - 1)
}

pub fn br_cpf(text: &[u8]) -> bool {
    !is_one_digit(text) && by_11_twice(text, &[11, 10, 9, 8, 7, 6, 5, 4, 3, 2])
}

pub fn br_cnpj(text: &[u8]) -> bool {
    !is_one_digit(text) && by_11_twice(text, &[6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2])
}

pub fn cn_resident(text: &[u8]) -> bool {
    let last = b"10X98765432";
    let rest = weighted(&text[..17], &[7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]) % 11;
    matches!(number(&text[..2]), 11..=82)
        && matches!(&text[6..8], b"19" | b"20")
        && is_mmdd(&text[10..14])
        && last[rest as usize] == text[17]
}

pub fn jp_my_number(text: &[u8]) -> bool {
    let rest = weighted(&text[..11], &[6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11;
    !is_one_digit(text) && at(text, 11) == if rest < 2 { 0 } else { 11 - rest }
}

/// Since 2020 the last six digits are random.
pub fn kr_resident(text: &[u8]) -> bool {
    is_mmdd(&text[2..6])
}

pub fn sg_nric(text: &[u8]) -> bool {
    let sum = weighted(&text[1..8], &[2, 7, 6, 5, 4, 3, 2]);
    let of = |letters: &[u8; 11], more: u32| letters[((sum + more) % 11) as usize] == text[8];
    match text[0] {
        b'S' => of(b"JZIHGFEDCBA", 0),
        b'T' => of(b"JZIHGFEDCBA", 4),
        b'F' => of(b"XWUTRQPNMLK", 0),
        b'G' => of(b"XWUTRQPNMLK", 4),
        b'M' => of(b"XWUTRQPNJLK", 3),
        _ => false,
    }
}

pub fn za_identity(text: &[u8]) -> bool {
    is_mmdd(&text[2..6]) && text[10] < b'3' && luhn(text)
}

pub fn tr_identity(text: &[u8]) -> bool {
    let odd = weighted(text, &[1, 0, 1, 0, 1, 0, 1, 0, 1]);
    let even = weighted(text, &[0, 1, 0, 1, 0, 1, 0, 1]);
    let ninth = (odd * 7 + 10 * 8 - even) % 10;
    at(text, 0) != 0 && ninth == at(text, 9) && (odd + even + at(text, 9)) % 10 == at(text, 10)
}

pub fn cz_birth(text: &[u8]) -> bool {
    let month = number(&text[2..4]) as u32 % 50;
    let is_date = is_day(if month > 20 { month - 20 } else { month }, number(&text[4..6]) as u32);
    is_date
        && (text.len() == 9 || number(text).is_multiple_of(11) || {
            number(&text[..9]) % 11 == 10 && text[9] == b'0'
        })
}

pub fn ro_cnp(text: &[u8]) -> bool {
    let rest = weighted(text, &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11;
    text[0] != b'0' && is_mmdd(&text[3..7]) && at(text, 12) == if rest == 10 { 1 } else { rest }
}

/// Estonia and Lithuania.
pub fn baltic_person(text: &[u8]) -> bool {
    let rest = match weighted(text, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 1]) % 11 {
        10 => weighted(text, &[3, 4, 5, 6, 7, 8, 9, 1, 2, 3]) % 11 % 10,
        rest => rest,
    };
    (b'1'..=b'8').contains(&text[0]) && is_mmdd(&text[3..7]) && rest == at(text, 10)
}

pub fn lv_person(text: &[u8]) -> bool {
    let sum = weighted(&text[..10], &[10, 5, 8, 4, 2, 1, 6, 3, 7, 9]);
    // Since 2017 they begin with 32, and have no digit to check.
    text.starts_with(b"32") || (is_ddmm(text) && (1 + sum) % 11 % 10 == at(text, 10))
}

pub fn hr_oib(text: &[u8]) -> bool {
    mod_11_10(text) && !is_one_digit(text)
}

pub fn bg_egn(text: &[u8]) -> bool {
    let rest = weighted(text, &[2, 4, 8, 5, 10, 9, 7, 3, 6]) % 11 % 10;
    is_mmdd_of_a_century(&text[2..6]) && rest == at(text, 9)
}

pub fn gr_amka(text: &[u8]) -> bool {
    is_ddmm(text) && luhn(text)
}

pub fn ie_pps(text: &[u8]) -> bool {
    let more = text.get(8).map_or(0, |letter| match letter {
        b'A'..=b'I' => u32::from(letter - b'A') + 1,
        _ => 0,
    });
    let sum = weighted(&text[..7], &[8, 7, 6, 5, 4, 3, 2]) + 9 * more;
    text.get(8).is_none_or(|letter| b"ABCDEFGHIWTX".contains(letter))
        && b"WABCDEFGHIJKLMNOPQRSTUV"[(sum % 23) as usize] == text[7]
}

pub fn mx_curp(text: &[u8]) -> bool {
    let value = |byte: u8| match byte {
        b'0'..=b'9' => u32::from(byte - b'0'),
        b'A'..=b'N' => u32::from(byte - b'A') + 10,
        _ => u32::from(byte - b'A') + 11,
    };
    let sum: u32 = text[..17].iter().zip((2..=18).rev()).map(|(byte, weight)| value(*byte) * weight).sum();
    b"HMX".contains(&text[10]) && is_mmdd(&text[6..10]) && (10 - sum % 10) % 10 == at(text, 17)
}

pub fn cl_rut(text: &[u8]) -> bool {
    let (number, check) = text.split_at(text.len() - 1);
    let sum: u32 = digits(number)
        .rev()
        .zip([2, 3, 4, 5, 6, 7].into_iter().cycle())
        .map(|(digit, weight)| digit * weight)
        .sum();
    b"0K987654321"[(sum % 11) as usize] == check[0]
}

pub fn ar_cuit(text: &[u8]) -> bool {
    let check = (11 - weighted(&text[..10], &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11) % 11;
    matches!(number(&text[..2]), 20 | 23 | 24 | 25 | 26 | 27) && check == at(text, 10)
}

pub fn il_identity(text: &[u8]) -> bool {
    luhn(text) && !is_one_digit(text)
}

pub fn tw_identity(text: &[u8]) -> bool {
    let Some(letter) = b"ABCDEFGHJKLMNPQRSTUVXYWZIO".iter().position(|letter| *letter == text[0]) else {
        return false;
    };
    let letter = letter as u32 + 10;
    let sum = letter / 10 + letter % 10 * 9 + weighted(&text[1..], &[8, 7, 6, 5, 4, 3, 2, 1, 1]);
    matches!(text[1], b'1' | b'2' | b'8' | b'9') && sum.is_multiple_of(10)
}

pub fn th_identity(text: &[u8]) -> bool {
    let sum = weighted(&text[..12], &[13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2]);
    at(text, 0) != 0 && (11 - sum % 11) % 10 == at(text, 12)
}

pub fn my_identity(text: &[u8]) -> bool {
    is_mmdd(&text[2..6]) && matches!(number(&text[6..8]), 1..=16 | 21..=59 | 71 | 72 | 74..=79 | 82..=93)
}

pub fn ru_snils(text: &[u8]) -> bool {
    let sum = weighted(&text[..9], &[9, 8, 7, 6, 5, 4, 3, 2, 1]) % 101 % 100;
    number(&text[..9]) > 1_001_998 && u64::from(sum) == number(&text[9..])
}

pub fn ru_tax(text: &[u8]) -> bool {
    let first = weighted(&text[..10], &[7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) % 11 % 10;
    let second = weighted(&text[..11], &[3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) % 11 % 10;
    first == at(text, 10) && second == at(text, 11) && !is_one_digit(text)
}

pub fn ua_tax(text: &[u8]) -> bool {
    // The first weight is -1, which is 10 by 11.
    weighted(&text[..9], &[10, 5, 7, 9, 4, 6, 10, 5, 7]) % 11 % 10 == at(text, 9) && !is_one_digit(text)
}

/// Without a digit to check: digits, and few letters.
pub fn passport(text: &[u8]) -> bool {
    text.iter().filter(|byte| byte.is_ascii_digit()).count() >= 6
}
