//! The address of a metadata store, as given by `--meta`: parsed once, valid afterwards.
//!
//! `file:///abs/dir` or `file:relative/dir` (embedded, durable), `memory:` (embedded, nothing kept),
//! `etcd://host:2379,host:2379/prefix` (etcd), `etcds://…` (etcd over TLS).

use std::{fmt, path::PathBuf, str::FromStr};

use crate::Error;

/// Where the metadata lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MetaUrl {
    /// The embedded store, in `meta/kafscale.redb` under this directory.
    File(PathBuf),
    /// The embedded store without a disk: gone when the process ends.
    Memory,
    /// An etcd cluster.
    Etcd(EtcdUrl),
}

/// The address of an etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EtcdUrl {
    /// Whether its members are spoken to over TLS: `etcds://`.
    pub tls: bool,
    /// Its members, or some of them. Never empty.
    pub endpoints: Vec<Endpoint>,
    /// What all keys begin with, before the `/kafscale` of ours: empty, or with a slash at its beginning and none at its end.
    pub prefix: String,
}

/// Longest prefix in bytes: etcd's limit of a transaction has room for one before every key.
const MAX_PREFIX_BYTES: usize = 128;

/// A host and port of an etcd member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// 0 for a Unix socket, which no address that somebody gives can name.
    pub port: u16,
}

const EXPECTED: &str = "expected file:///absolute/dir, file:relative/dir, memory:, etcd://host:2379,host:2379 or etcds://host:2379";

impl FromStr for MetaUrl {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        if url == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(rest) = url.strip_prefix("file:") {
            return parse_file(url, rest);
        }
        if let Some(rest) = url.strip_prefix("etcd://") {
            return parse_etcd(url, rest, false);
        }
        if let Some(rest) = url.strip_prefix("etcds://") {
            return parse_etcd(url, rest, true);
        }
        Err(Error::invalid(format!("{url:?} is not the address of a metadata store: {EXPECTED}")))
    }
}

fn parse_file(url: &str, rest: &str) -> Result<MetaUrl, Error> {
    let path = match rest.strip_prefix("//") {
        // file://host/path names another machine; only the empty host is a local path.
        Some(absolute) if !absolute.starts_with('/') => {
            return Err(Error::invalid(format!(
                "{url:?} names a host: write file:///absolute/dir (three slashes) or file:relative/dir"
            )));
        }
        Some(absolute) => absolute,
        None => rest,
    };
    if path.is_empty() || path.contains('\0') {
        return Err(Error::invalid(format!("{url:?} names no directory: {EXPECTED}")));
    }
    Ok(MetaUrl::File(PathBuf::from(path)))
}

fn parse_etcd(url: &str, rest: &str, tls: bool) -> Result<MetaUrl, Error> {
    let rest = rest.trim_end_matches('/');
    let (members, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let graphic = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%');
    if prefix.len() > MAX_PREFIX_BYTES || !prefix.chars().all(graphic) {
        return Err(Error::invalid(format!(
            "{url:?}: the prefix {prefix:?} must be up to {MAX_PREFIX_BYTES} visible characters without ?, # and %"
        )));
    }
    let endpoints = members.split(',').map(|e| parse_endpoint(url, e)).collect::<Result<_, _>>()?;
    Ok(MetaUrl::Etcd(EtcdUrl { tls, endpoints, prefix: prefix.to_owned() }))
}

fn parse_endpoint(url: &str, endpoint: &str) -> Result<Endpoint, Error> {
    let bad = |why: &str| Error::invalid(format!("{url:?}: the endpoint {endpoint:?} {why}: {EXPECTED}"));
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(|| bad("has no port"))?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad("has no valid port"))?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => {
            v6.parse::<std::net::Ipv6Addr>().map_err(|_| bad("is no IPv6 address"))?;
            v6
        }
        None => host,
    };
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !(host.chars().all(named) || host.parse::<std::net::Ipv6Addr>().is_ok()) {
        return Err(bad("has no valid host"));
    }
    Ok(Endpoint { host: host.to_owned(), port })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port == 0 {
            write!(f, "@{}", self.host)
        } else if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for EtcdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "etcds://" } else { "etcd://" })?;
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            endpoint.fmt(f)?;
        }
        f.write_str(&self.prefix)
    }
}

impl fmt::Display for MetaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) if path.is_absolute() => write!(f, "file://{}", path.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Memory => f.write_str("memory:"),
            Self::Etcd(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_parses_and_prints_as_it_was_written() {
        for url in [
            "memory:",
            "file:///var/lib/kafscale",
            "file:data",
            "file:./data/x y",
            "etcd://a:2379",
            "etcd://a.b-c:2379,10.0.0.1:1,[::1]:2379",
            "etcds://a:2379,b:2379",
            "etcd://a:2379/team/a",
        ] {
            let parsed: MetaUrl = url.parse().unwrap();
            assert_eq!(parsed.to_string(), url);
            assert_eq!(parsed.to_string().parse::<MetaUrl>().unwrap(), parsed);
        }
        assert_eq!("etcd://a:1/".parse::<MetaUrl>().unwrap().to_string(), "etcd://a:1");
        assert_eq!("file:/abs".parse::<MetaUrl>().unwrap(), MetaUrl::File("/abs".into()));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in [
            "",
            "memory",
            "memory:x",
            "file:",
            "file://",
            "file://host/path",
            "/var/lib",
            "etcd://",
            "etcd://a",
            "etcd://a:0",
            "etcd://a:70000",
            "etcd://a:1,",
            "etcd://:2379",
            "etcd://a b:1",
            "etcd://user@a:1",
            "etcds://a",
            "etcd:///prefix",
            "etcd://a:1/a b",
            "etcd://a:1/?x",
            "http://a:2379",
            "s3://b",
        ] {
            let error = url.parse::<MetaUrl>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{url}");
        }
    }
}
