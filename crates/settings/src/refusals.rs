//! What the user reads when a value, an address or a place is refused, in plain words.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::num::{IntErrorKind, ParseIntError};
use std::path::Path;

use clap::error::{ContextKind, ContextValue};

/// Upper ends of ranges that are those of the type, and no limit that anybody chose.
const NO_LIMIT: [i64; 4] = [i32::MAX as i64, u32::MAX as i64, u16::MAX as i64, i64::MAX];

/// clap's error, with the library's words for a bad number put into plain ones. Everything else stays as it is.
pub fn reworded(error: clap::Error) -> clap::Error {
    match bad_number(&error) {
        Some(why) => {
            let text = format!("{why}\n\nFor more information, try '--help'.\n");
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, text)
        }
        None => error,
    }
}

fn bad_number(error: &clap::Error) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // `--node-id <ID>`: the flag alone.
    let flag = context(ContextKind::InvalidArg)?.split(' ').next()?;
    let value = context(ContextKind::InvalidValue)?;
    let source = error.source()?;
    if let Some(error) = source.downcast_ref::<ParseIntError>() {
        return Some(match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => {
                format!("{flag}: `{value}` is more than this program can count")
            }
            _ if is_negative(value) => format!("{flag} must be 0 or more, not {value}"),
            _ => format!("{flag}: `{value}` is not a whole number"),
        });
    }
    let text = source.to_string();
    let (low, high) = text.split_once(" is not in ")?.1.split_once("..=")?;
    Some(match high.parse() {
        Ok(high) if !NO_LIMIT.contains(&high) => {
            format!("{flag} must be between {low} and {high}, not {value}")
        }
        Ok(_) | Err(_) => format!("{flag} must be {low} or more, not {value}"),
    })
}

fn is_negative(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// Why an address cannot be listened on, and what to do; `flag` chooses another.
pub fn cannot_listen(address: SocketAddr, error: &io::Error, flag: &str) -> String {
    let cannot = format!("cannot listen on {address}");
    match error.kind() {
        ErrorKind::AddrNotAvailable => {
            let any = if address.is_ipv6() { "[::1] or [::]" } else { "127.0.0.1 or 0.0.0.0" };
            format!("{cannot}: this machine has no address {}; use {any} with {flag}", address.ip())
        }
        ErrorKind::PermissionDenied if address.port() < 1024 => {
            format!(
                "{cannot}: ports below 1024 are for privileged users only; choose a higher one with {flag}"
            )
        }
        ErrorKind::AddrInUse => {
            format!("{cannot}: {error}. Stop what uses that port, or choose another with {flag}.")
        }
        _ => format!("{cannot}: {error}; choose another address with {flag}"),
    }
}

/// A directory that is none, or is below something that is none: what to tell whoever named it with `flag`.
pub fn not_a_directory(flag: &str, directory: &Path) -> Option<String> {
    let found = directory.ancestors().find(|place| place.symlink_metadata().is_ok())?;
    // What cannot be looked at is told when it is used.
    if found.metadata().map_or(true, |found| found.is_dir()) {
        return None;
    }
    let (directory, file) = (directory.display(), found.display());
    Some(match found == Path::new(&directory.to_string()) {
        true => format!("{flag} {directory} is a file; choose a directory"),
        false => format!("{flag} {directory}: {file} is a file; choose another directory"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_refused_with_the_reason() {
        let address: SocketAddr = "10.9.8.7:9092".parse().unwrap();
        let low: SocketAddr = "127.0.0.1:80".parse().unwrap();
        for (address, kind, expected) in [
            (
                address,
                ErrorKind::AddrNotAvailable,
                "no address 10.9.8.7; use 127.0.0.1 or 0.0.0.0 with --listen",
            ),
            (address, ErrorKind::AddrInUse, "Stop what uses that port, or choose another with --listen"),
            (low, ErrorKind::PermissionDenied, "ports below 1024"),
            (address, ErrorKind::PermissionDenied, "choose another address with --listen"),
        ] {
            let text = cannot_listen(address, &kind.into(), "--listen");
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a-file");
        std::fs::write(&file, "").unwrap();
        let told = |path: &Path| not_a_directory("--data-dir", path);
        assert_eq!(told(dir.path()), None);
        assert_eq!(told(&dir.path().join("new/deep")), None);
        let expected = format!("--data-dir {} is a file; choose a directory", file.display());
        assert_eq!(told(&file), Some(expected));
        assert!(told(&file.join("deep/er")).unwrap().contains(&format!("{} is a file", file.display())));
    }
}
