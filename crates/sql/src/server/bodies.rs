//! What the parts of a client's message have to be, before it is decoded: `pgwire` believes the
//! lengths and counts that a message states, and replaces what is no UTF-8.
//!
//! The forms are those of the protocol's chapter "Message Formats".

/// What a message has that its kind has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("invalid byte sequence for encoding \"UTF8\": 0x{0:02x}")]
    Encoding(u8),
    #[error("invalid string in message")]
    Unterminated,
    #[error("insufficient data left in message")]
    Short,
    #[error("invalid message format")]
    Format,
    #[error("function calls of the protocol are not supported")]
    Call,
    /// There is no telling what comes next.
    #[error("invalid frontend message type {0}")]
    Kind(u8),
}

impl Wrong {
    /// SQLSTATE.
    pub fn code(self) -> &'static str {
        match self {
            Wrong::Encoding(_) => "22021",
            Wrong::Call => "0A000",
            Wrong::Unterminated | Wrong::Short | Wrong::Format | Wrong::Kind(_) => "08P01",
        }
    }
}

/// Of one kind of message: all that stands behind its length.
pub fn check(kind: u8, body: &[u8]) -> Result<(), Wrong> {
    let mut body = Body(body);
    match kind {
        b'Q' | b'f' => body.text()?,
        b'P' => {
            body.text()?;
            body.text()?;
            let types = body.count()?;
            body.skip(types * 4)?;
        }
        b'B' => bind(&mut body)?,
        b'D' | b'C' => {
            if !matches!(body.bytes(1)?, b"S" | b"P") {
                return Err(Wrong::Format);
            }
            body.text()?;
        }
        b'E' => {
            body.text()?;
            body.skip(4)?;
        }
        b'S' | b'H' | b'c' => {}
        // A password, data, or the end: whatever they hold.
        b'p' | b'd' | b'X' => return Ok(()),
        b'F' => return Err(Wrong::Call),
        other => return Err(Wrong::Kind(other)),
    }
    if body.0.is_empty() { Ok(()) } else { Err(Wrong::Format) }
}

fn bind(body: &mut Body<'_>) -> Result<(), Wrong> {
    body.text()?;
    body.text()?;
    let formats = body.count()?;
    body.skip(formats * 2)?;
    let values = body.count()?;
    for _ in 0..values {
        let length = i32::from_be_bytes(body.bytes(4)?.try_into().map_err(|_| Wrong::Short)?);
        // Less than 0 is NULL.
        body.skip(usize::try_from(length).unwrap_or(0))?;
    }
    let of_results = body.count()?;
    body.skip(of_results * 2)?;
    // One for all, or one for each.
    if formats > 1 && formats != values { Err(Wrong::Format) } else { Ok(()) }
}

struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Wrong::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), Wrong> {
        self.bytes(count).map(drop)
    }

    fn count(&mut self) -> Result<usize, Wrong> {
        let count = self.bytes(2)?;
        Ok(usize::from(u16::from_be_bytes([count[0], count[1]])))
    }

    /// Up to a NUL.
    fn text(&mut self) -> Result<(), Wrong> {
        let length = self.0.iter().position(|byte| *byte == 0).ok_or(Wrong::Unterminated)?;
        let text = self.bytes(length)?;
        self.skip(1)?;
        match std::str::from_utf8(text) {
            Ok(_) => Ok(()),
            Err(error) => Err(Wrong::Encoding(text[error.valid_up_to()])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whose_parts_fill_them() {
        for (kind, body) in [
            (b'Q', &b"select 1\0"[..]),
            (b'P', b"n\0select $1\0\0\x01\0\0\0\x17"),
            (b'B', b"\0\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\x01"),
            (b'D', b"S\0"),
            (b'E', b"p\0\0\0\0\x05"),
            (b'S', b""),
            (b'd', b"\xff\0"),
        ] {
            assert_eq!(check(kind, body), Ok(()), "{}", char::from(kind));
        }
    }

    #[test]
    fn messages_that_lie_are_told_by_why() {
        for (kind, body, wrong) in [
            (b'Q', &b"select 1"[..], Wrong::Unterminated),
            (b'Q', b"select 1\0garbage\0", Wrong::Format),
            (b'Q', b"select '\xff'\0", Wrong::Encoding(0xff)),
            (b'P', b"\0select 1\0\0\x02\0\0\0\x17", Wrong::Short),
            // A value of a gigabyte, which is not there.
            (b'B', b"\0\0\0\0\0\x01\x40\0\0\0", Wrong::Short),
            (b'B', b"\0\0\0\x02\0\0\0\0\0\x01\0\0\0\x01x\0\0", Wrong::Format),
            (b'B', b"\0\0\0\0\0\0\0\x09", Wrong::Short),
            (b'D', b"X\0", Wrong::Format),
            (b'E', b"p\0\0\0", Wrong::Short),
            (b'S', b"x", Wrong::Format),
            (b'F', b"", Wrong::Call),
            (0xff, b"", Wrong::Kind(0xff)),
        ] {
            assert_eq!(check(kind, body), Err(wrong), "{body:?}");
        }
    }
}
