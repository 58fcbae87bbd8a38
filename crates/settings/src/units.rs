//! Sizes, durations and addresses as people write them: `64MiB`, `7d`, `unlimited`, `127.0.0.1:9092`.
//!
//! Each type parses and prints; printing gives text that parses to the same value, so that the help and
//! docs/configuration.md show defaults in the form a user may copy.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes. Binary (`KiB`, `MiB`, `GiB`, `TiB`) and decimal (`KB`, `MB`, `GB`, `TB`) units, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

impl ByteSize {
    pub const fn mib(count: u64) -> Self {
        Self(count * MIB)
    }

    pub const fn gib(count: u64) -> Self {
        Self(count * GIB)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let count: u64 = number
            .parse()
            .map_err(|_| format!("`{text}` is not a size; write for example 64MiB or 1000000"))?;
        let scale = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" => KIB,
            "mib" => MIB,
            "gib" => GIB,
            "tib" => TIB,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => {
                return Err(format!(
                    "`{unit}` is not a unit of size; use KiB, MiB, GiB, TiB, KB, MB, GB or TB"
                ));
            }
        };
        count
            .checked_mul(scale)
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(ByteSize)
            .ok_or_else(|| format!("`{text}` is more than this program can count"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
            if self.0 != 0 && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A span of time: `500ms`, `5s`, `10m`, `12h`, `7d`. A unit is required, except after 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SPAN_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    pub const fn ms(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    pub const fn days(count: u64) -> Self {
        Self(Duration::from_secs(count * 86_400))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let count: u64 = number
            .parse()
            .map_err(|_| format!("`{text}` is not a time; write for example 500ms, 5s or 7d"))?;
        if count == 0 && unit.is_empty() {
            return Ok(Self(Duration::ZERO));
        }
        let (_, scale) = SPAN_UNITS
            .into_iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| format!("`{text}` needs a unit of time: ms, s, m, h or d"))?;
        count
            .checked_mul(scale)
            .filter(|ms| i64::try_from(*ms).is_ok())
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| format!("`{text}` is more than this program can count"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, scale) = SPAN_UNITS
            .into_iter()
            .find(|(_, scale)| ms != 0 && ms.is_multiple_of(*scale))
            .unwrap_or(("ms", 1));
        write!(f, "{}{unit}", ms / scale)
    }
}

/// A value, or `unlimited` (Kafka's `-1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit<T> {
    Unlimited,
    At(T),
}

impl<T: FromStr<Err = String>> FromStr for Limit<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" | "-1" => Ok(Self::Unlimited),
            _ => text.parse().map(Self::At).map_err(|e: String| format!("{e}; or `unlimited`")),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::At(value) => value.fmt(f),
        }
    }
}

/// An address to listen on. `localhost` is taken as 127.0.0.1 and an empty host or `*` as every interface;
/// other names are not looked up, because what they resolve to may change between two starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddr(pub SocketAddr);

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(addr) = text.parse() {
            return Ok(Self(addr));
        }
        let HostPort { host, port } = split_host_port(text)?;
        let ip = match host.as_str() {
            "localhost" => Ipv4Addr::LOCALHOST,
            "" | "*" => Ipv4Addr::UNSPECIFIED,
            _ => return Err(format!("`{host}` is not an IP address to listen on; use 127.0.0.1 or 0.0.0.0")),
        };
        Ok(Self(SocketAddr::from((ip, port))))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name and port under which clients reach this broker. Port 0 stands for the port that was bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = split_host_port(text)?;
        if address.host.is_empty() || address.host == "*" {
            return Err(format!("`{text}` has no host; clients need a name or an IP address to connect to"));
        }
        Ok(address)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn split_host_port(text: &str) -> Result<HostPort, String> {
    let wanted = || format!("`{text}` is not HOST:PORT, for example 127.0.0.1:9092");
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let port = match port.parse() {
        Ok(port) => port,
        Err(_) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            return Err(format!("`{text}`: the port must be between 0 and 65535"));
        }
        Err(_) => return Err(wanted()),
    };
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6,
        None if host.contains([':', '/', ' ']) => return Err(wanted()),
        None => host,
    };
    Ok(HostPort { host: host.to_owned(), port })
}

fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_and_without_units() {
        let cases =
            [("0", 0), ("1048576", 1 << 20), ("64MiB", 64 << 20), ("1GB", 1_000_000_000), ("2 kib", 2048)];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "10parsecs", "99999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn spans_need_a_unit() {
        let cases = [("500ms", 500), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000), ("0", 0)];
        for (text, ms) in cases {
            assert_eq!(text.parse(), Ok(Span::ms(ms)), "{text}");
        }
        for text in ["", "5", "5 weeks", "-1s", "99999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same() {
        for bytes in [0, 1, 1024, 1536, 1 << 20, 3 << 30, 1_000_000] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
        for ms in [0, 1, 1_000, 61_000, 3_600_000, 604_800_000] {
            assert_eq!(Span::ms(ms).to_string().parse(), Ok(Span::ms(ms)));
        }
        for limit in [Limit::Unlimited, Limit::At(ByteSize::gib(1))] {
            assert_eq!(limit.to_string().parse(), Ok(limit));
        }
    }

    #[test]
    fn listen_addresses_take_no_names_but_localhost() {
        let cases = [
            ("127.0.0.1:9092", "127.0.0.1:9092"),
            ("localhost:9092", "127.0.0.1:9092"),
            (":9092", "0.0.0.0:9092"),
            ("*:0", "0.0.0.0:0"),
            ("[::1]:9092", "[::1]:9092"),
        ];
        for (text, addr) in cases {
            assert_eq!(text.parse::<ListenAddr>().map(|a| a.to_string()), Ok(addr.to_owned()), "{text}");
        }
        for text in ["9092", "kafka.example:9092", "1.2.3.4", "1.2.3.4:x", "http://1.2.3.4:5"] {
            assert!(text.parse::<ListenAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn advertised_addresses_need_a_host() {
        for text in ["kafka.example:9092", "[::1]:9092", "10.0.0.1:1"] {
            assert_eq!(text.parse::<HostPort>().map(|a| a.to_string()), Ok(text.to_owned()));
        }
        for text in [":9092", "*:9092", "kafka", "a b:1", "::1:9092"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }
}
