//! Protobuf's wire format: fields by their numbers, one after the other.

/// Groups within groups, and messages within messages.
pub const MAX_DEPTH: usize = 100;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error("the bytes are no message of Protobuf")]
    Form,
    #[error("it is nested too deep, or too large as JSON")]
    TooLarge,
}

/// The value of a field, as far as the wire knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    /// What stands between the group's begin and its end.
    Group(&'a [u8]),
}

/// Takes a number of variable length.
pub fn varint(bytes: &mut &[u8]) -> Result<u64, Bad> {
    let mut number = 0_u64;
    for at in 0..10 {
        let byte = *bytes.get(at).ok_or(Bad::Form)?;
        // Of a tenth byte one bit fits; others are dropped, as other readers do.
        number |= u64::from(byte & 0x7f).wrapping_shl(u32::try_from(7 * at).unwrap_or(0));
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Ok(number);
        }
    }
    Err(Bad::Form)
}

pub fn zigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

pub fn fixed64(bytes: &mut &[u8]) -> Result<u64, Bad> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(Bad::Form)?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*taken))
}

pub fn fixed32(bytes: &mut &[u8]) -> Result<u32, Bad> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(Bad::Form)?;
    *bytes = rest;
    Ok(u32::from_le_bytes(*taken))
}

/// Takes the next field: its number and value. `None`: there is none.
pub fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u32, Wire<'a>)>, Bad> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (number, kind) = tag(bytes)?;
    Ok(Some((number, value(bytes, number, kind)?)))
}

fn tag(bytes: &mut &[u8]) -> Result<(u32, u8), Bad> {
    let tag = u32::try_from(varint(bytes)?).map_err(|_| Bad::Form)?;
    if tag >> 3 == 0 {
        return Err(Bad::Form);
    }
    Ok((tag >> 3, (tag & 7) as u8))
}

fn value<'a>(bytes: &mut &'a [u8], number: u32, kind: u8) -> Result<Wire<'a>, Bad> {
    Ok(match kind {
        0 => Wire::Varint(varint(bytes)?),
        1 => Wire::Fixed64(fixed64(bytes)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).map_err(|_| Bad::Form)?;
            let (taken, rest) = bytes.split_at_checked(length).ok_or(Bad::Form)?;
            *bytes = rest;
            Wire::Bytes(taken)
        }
        3 => Wire::Group(group(bytes, number)?),
        5 => Wire::Fixed32(fixed32(bytes)?),
        _ => return Err(Bad::Form),
    })
}

/// What stands before the end of a group. Groups in it are passed over without recursion.
fn group<'a>(bytes: &mut &'a [u8], number: u32) -> Result<&'a [u8], Bad> {
    let whole = *bytes;
    let mut open = vec![number];
    loop {
        let before = whole.len() - bytes.len();
        match tag(bytes)? {
            (number, 3) if open.len() < MAX_DEPTH => open.push(number),
            (_, 3) => return Err(Bad::TooLarge),
            (number, 4) => {
                if open.pop() != Some(number) {
                    return Err(Bad::Form);
                }
                if open.is_empty() {
                    return Ok(&whole[..before]);
                }
            }
            (number, kind) => {
                value(bytes, number, kind)?;
            }
        }
    }
}
