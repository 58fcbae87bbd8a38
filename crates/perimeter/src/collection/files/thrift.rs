//! The compact form of Thrift, in which Parquet has its footer and the headers of its pages: looked through before anything is made
//! of it, since a few bytes may claim any size.

/// Fields of the structures in Parquet are nested less deeply.
const MAX_DEPTH: usize = 32;

/// What is not Thrift, or claims more than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its structure is not that of Parquet")]
pub struct Malformed;

/// What the header of a page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Of the header itself.
    pub header_bytes: usize,
    pub uncompressed_bytes: i64,
    pub compressed_bytes: i64,
}

/// Checks that this is one structure, whose lists are no longer than what is there.
pub fn check(bytes: &[u8]) -> Result<(), Malformed> {
    Reader { bytes, at: 0 }.structure(0, &mut |_, _| {})
}

/// The header of the page that begins here.
pub fn page_header(bytes: &[u8]) -> Result<PageHeader, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    let (mut uncompressed, mut compressed) = (None, None);
    reader.structure(0, &mut |field, value| match field {
        2 => uncompressed = Some(value),
        3 => compressed = Some(value),
        _ => {}
    })?;
    let (uncompressed_bytes, compressed_bytes) =
        (uncompressed.ok_or(Malformed)?, compressed.ok_or(Malformed)?);
    if uncompressed_bytes < 0 || compressed_bytes < 0 {
        return Err(Malformed);
    }
    Ok(PageHeader { header_bytes: reader.at, uncompressed_bytes, compressed_bytes })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        let at = self.at.checked_add(count).filter(|at| *at <= self.bytes.len());
        self.at = at.ok_or(Malformed)?;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn zigzag(&mut self) -> Result<i64, Malformed> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        if length <= self.bytes.len() - self.at { Ok(length) } else { Err(Malformed) }
    }

    /// `each` is told of the whole numbers that are fields of this structure.
    fn structure(&mut self, depth: usize, each: &mut dyn FnMut(i64, i64)) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed);
        }
        let mut field: i64 = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            let step = i64::from(head >> 4);
            field = if step == 0 { self.zigzag()? } else { field.checked_add(step).ok_or(Malformed)? };
            match head & 0x0f {
                // True and false have no byte of their own here.
                1 | 2 => {}
                4..=6 => each(field, self.zigzag()?),
                kind => self.value(kind, depth)?,
            }
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<(), Malformed> {
        match kind {
            1..=3 => self.skip(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.skip(8),
            8 => {
                let length = self.length()?;
                self.skip(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let short = usize::from(head >> 4);
                let count = if short == 15 { self.length()? } else { short };
                // Each takes a byte at least.
                if count > self.bytes.len() - self.at || depth > MAX_DEPTH {
                    return Err(Malformed);
                }
                (0..count).try_for_each(|_| self.value(head & 0x0f, depth + 1))
            }
            12 => self.structure(depth + 1, &mut |_, _| {}),
            // Maps are nowhere in Parquet.
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_pages_are_read() {
        // type = 0, uncompressed = 300, compressed = 5, data_page_header { num_values = 1 }
        let bytes = [0x15, 0, 0x15, 0xd8, 0x04, 0x15, 0x0a, 0x2c, 0x15, 2, 0, 0];
        let header = page_header(&bytes).unwrap();
        assert_eq!((header.uncompressed_bytes, header.compressed_bytes), (300, 5));
        assert_eq!(header.header_bytes, bytes.len());
        assert_eq!(page_header(&bytes[..10]), Err(Malformed));
        assert_eq!(page_header(&[0]), Err(Malformed));
    }

    #[test]
    fn what_claims_more_than_there_is_is_refused() {
        // A list of 2^31 structures, a text of 2^40 bytes, and structures without an end.
        for bytes in [
            vec![0x19, 0xfc, 0x80, 0x80, 0x80, 0x80, 0x08],
            vec![0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0],
            [0x1c].repeat(1_000),
            [0x19, 0x19].repeat(1_000),
            [0xff].repeat(20),
        ] {
            assert_eq!(check(&bytes), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(check(&[0x19, 0x25, 2, 4, 0]), Ok(()));
    }
}
