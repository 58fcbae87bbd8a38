//! What the operating system says about this process: how many files it may open, and what the host is called.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one: every client connection and every open log file takes one, and
/// the usual soft limit of 1,024 is there for programs that use `select`. Gives the limit that holds now.
pub fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// The connections that leave enough open files for the log, the store and the metrics port, of as many as are wanted: with none left a
/// broker cannot even say that it is well.
pub fn connections_within(open_files: Option<u64>, wanted: u32) -> u32 {
    let most = open_files.map_or(u64::MAX, |open_files| (open_files / 4 * 3).max(1));
    u32::try_from(most).map_or(wanted, |most| wanted.min(most))
}

pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_open_files_is_not_for_connections() {
        for (open_files, wanted, allowed) in [
            (None, 10_000, 10_000),
            (Some(1 << 20), 10_000, 10_000),
            (Some(1024), 10_000, 768),
            (Some(1024), 100, 100),
            (Some(2), 10, 1),
            (Some(u64::MAX), u32::MAX, u32::MAX),
        ] {
            assert_eq!(connections_within(open_files, wanted), allowed, "{open_files:?}");
        }
    }
}
