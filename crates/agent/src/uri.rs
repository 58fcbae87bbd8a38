//! The URIs of resources: a scheme (`kafscale://`), a path, and at its end a name whose bytes are percent-encoded (RFC 3986), so that
//! whatever a thing is called stays one segment of the path.

/// Longer than any name with each of its bytes encoded.
const MAX_BYTES: usize = 100 << 10;

/// What follows the scheme.
pub fn path<'a>(uri: &'a str, scheme: &str) -> Option<&'a str> {
    uri.strip_prefix(scheme).filter(|path| path.len() <= MAX_BYTES)
}

/// The name of an encoded segment. None: it is none, or not encoded as RFC 3986 has it.
pub fn decode(segment: &str) -> Option<String> {
    let mut name = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                name.push(u8::try_from(high << 4 | low).ok()?);
            }
            b'/' | b'?' | b'#' | b'{' | b'}' => return None,
            other => name.push(other),
        }
    }
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}
