//! The encodings that all records share: the key space of a cluster, percent-encoded names, versioned JSON, base64.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{Error, ErrorKind, Result};

/// A typed value in the store.
pub trait Record: Serialize + DeserializeOwned {
    /// What a person calls it, for messages.
    const KIND: &'static str;
    /// The version that this release writes. It reads all versions up to this one.
    const VERSION: u32;

    /// The value to store.
    fn encode(&self) -> Bytes {
        #[derive(Serialize)]
        struct Envelope<'a, T> {
            v: u32,
            #[serde(flatten)]
            body: &'a T,
        }
        let envelope = Envelope { v: Self::VERSION, body: self };
        Bytes::from(serde_json::to_vec(&envelope).expect("records are maps with string keys"))
    }

    /// Reads a stored value. `key` is for the message only.
    fn decode(key: &str, value: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let corrupt = |e: serde_json::Error| {
            Error::corrupt(format!("the {} record at {key} cannot be read: {e}", Self::KIND))
        };
        let Version { v } = serde_json::from_slice(value).map_err(corrupt)?;
        if v > Self::VERSION {
            return Err(Error::new(
                ErrorKind::NewerVersion,
                format!(
                    "the {} record at {key} has version {v}, but this release knows only versions up to {}: \
                     run a release at least as new as the one that wrote it",
                    Self::KIND,
                    Self::VERSION
                ),
            ));
        }
        serde_json::from_slice(value).map_err(corrupt)
    }
}

/// The keys of one cluster. Each record file adds the builder and the parser of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspace {
    root: String,
}

impl Keyspace {
    /// The key space of a cluster's name, which may be any string but the empty one.
    pub fn new(cluster: &str) -> Result<Self> {
        if cluster.is_empty() {
            return Err(Error::invalid("the name of the cluster must not be empty"));
        }
        Ok(Self { root: format!("/kafscale/{}/", encode_name(cluster)) })
    }

    /// The prefix of everything that belongs to the cluster.
    pub fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn key(&self, path: std::fmt::Arguments<'_>) -> String {
        format!("{}{path}", self.root)
    }

    /// What follows `{root}{kind}/` in a key, split at slashes into exactly `N` components.
    pub(super) fn components<'k, const N: usize>(&self, key: &'k str, kind: &str) -> Option<[&'k str; N]> {
        let rest = key.strip_prefix(&self.root)?.strip_prefix(kind)?.strip_prefix('/')?;
        let mut parts = rest.split('/');
        let mut out = [""; N];
        for slot in &mut out {
            *slot = parts.next()?;
        }
        parts.next().is_none().then_some(out)
    }
}

/// Percent-encodes every byte but ASCII letters, digits, `-`, `_` and `.`.
pub(super) fn encode_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string");
        }
    }
    out
}

/// Reverses [`encode_name`]. Anything that it does not write is refused, so that a name has one key only.
pub(super) fn decode_name(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if is_plain(byte) {
            out.push(byte);
        } else if byte == b'%' {
            let decoded = upper_hex(bytes.next()?)? << 4 | upper_hex(bytes.next()?)?;
            if is_plain(decoded) {
                return None;
            }
            out.push(decoded);
        } else {
            return None;
        }
    }
    String::from_utf8(out).ok()
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn upper_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Reads a number as this crate writes it: no sign but `-`, no leading zeros.
pub(super) fn decode_number<N: std::str::FromStr + ToString>(text: &str) -> Option<N> {
    let number: N = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A UUID as Kafka prints it: 22 characters of URL-safe base64 without padding.
pub fn uuid_to_text(id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(id.as_bytes())
}

/// Reverses [`uuid_to_text`]; `None` for anything that it does not write.
pub fn uuid_from_text(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let bytes: [u8; 16] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    Some(Uuid::from_bytes(bytes))
}

/// `#[serde(with = "uuid_text")]`
pub(super) mod uuid_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use uuid::Uuid;

    pub(in super::super) fn serialize<S: Serializer>(id: &Uuid, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::uuid_to_text(*id))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Uuid, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        super::uuid_from_text(&text).ok_or_else(|| D::Error::custom("not 22 characters of URL-safe base64"))
    }
}

/// `#[serde(with = "base64_bytes")]`
pub(super) mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in super::super) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What every record type has to fulfil: it reads what it wrote, and fields that a later release added, but not a
    /// later version.
    pub(in super::super) fn check_encoding<T: Record + PartialEq + std::fmt::Debug>(record: &T) {
        let encoded = record.encode();
        assert_eq!(&T::decode("k", &encoded).unwrap(), record);

        let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&encoded).unwrap();
        assert_eq!(json["v"], T::VERSION);
        json.insert("added_later".into(), serde_json::json!({"a": [1]}));
        assert_eq!(&T::decode("k", &serde_json::to_vec(&json).unwrap()).unwrap(), record);

        json.insert("v".into(), serde_json::json!(T::VERSION + 1));
        let error = T::decode("/the/key", &serde_json::to_vec(&json).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NewerVersion);
        let text = error.to_string();
        assert!(text.contains("/the/key") && text.contains(&(T::VERSION + 1).to_string()), "{text}");

        for broken in [&b""[..], b"{", b"{}", b"[]", b"{\"v\":-1}", b"\xff"] {
            assert_eq!(T::decode("k", broken).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    /// Pins the bytes of a record: stores that exist hold such ones, so this example may only ever get company.
    pub(in super::super) fn check_bytes<T: Record + PartialEq + std::fmt::Debug>(record: &T, bytes: &str) {
        assert_eq!(std::str::from_utf8(&record.encode()).unwrap(), bytes);
        assert_eq!(&T::decode("k", bytes.as_bytes()).unwrap(), record);
    }

    /// Any string, with those that have hurt key builders before.
    pub(in super::super) fn any_name() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[a-z./%\\\\ -]{0,12}",
            Just(String::new()),
            Just("..".to_owned()),
            Just("%2F".to_owned()),
            Just("\0\u{10ffff}".to_owned()),
        ]
    }

    pub(in super::super) fn any_uuid() -> impl Strategy<Value = Uuid> {
        any::<u128>().prop_map(Uuid::from_u128)
    }

    pub(in super::super) fn any_bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    pub(in super::super) fn keyspace() -> Keyspace {
        Keyspace::new("test").unwrap()
    }

    proptest! {
        #[test]
        fn a_name_has_one_encoding(name in any_name(), other in any_name()) {
            let encoded = encode_name(&name);
            prop_assert!(!encoded.contains('/'));
            prop_assert_eq!(decode_name(&encoded), Some(name.clone()));
            prop_assert_eq!(name == other, encoded == encode_name(&other));
        }

        #[test]
        fn what_decodes_is_the_encoding(text in any_name()) {
            if let Some(name) = decode_name(&text) {
                prop_assert_eq!(encode_name(&name), text);
            }
        }

        #[test]
        fn a_uuid_has_one_text(id in any_uuid()) {
            let text = uuid_to_text(id);
            prop_assert_eq!(text.len(), 22);
            prop_assert_eq!(uuid_from_text(&text), Some(id));
        }
    }

    #[test]
    fn keys_of_other_clusters_and_kinds_are_not_ours() {
        let keys = keyspace();
        assert_eq!(keys.components::<1>("/kafscale/test/topics/a", "topics"), Some(["a"]));
        for key in [
            "/kafscale/test2/topics/a",
            "/kafscale/test/topics",
            "/kafscale/test/topicsx/a",
            "/kafscale/test/topics/a/b",
        ] {
            assert_eq!(keys.components::<1>(key, "topics"), None, "{key}");
        }
        assert_eq!(Keyspace::new("").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(Keyspace::new("a/b").unwrap().root(), "/kafscale/a%2Fb/");
    }
}
