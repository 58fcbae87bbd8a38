//! The Unix socket on which a process serves the embedded store that it has open.
//!
//! Its name is in Linux's abstract namespace, so that nothing lies in the data directory, and a killed process leaves nothing behind. The
//! name says which directory is meant: device and inode. Anybody may take any name, so both ends look at who is at the other one
//! (SO_PEERCRED). On other systems there is no such namespace, and a name is refused.

use std::ffi::OsString;
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

const ROOT: u32 = 0;

/// Where the store under a directory is served, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    pub name: String,
    /// The user that the directory belongs to.
    owner: u32,
}

impl Socket {
    /// The socket of the store under a directory.
    pub fn of(dir: &Path) -> Result<Socket> {
        let meta = fs::metadata(dir.join("meta"))?;
        Ok(Socket { name: format!("kafscale-meta-{:x}-{:x}", meta.dev(), meta.ino()), owner: meta.uid() })
    }

    fn address(&self) -> PathBuf {
        // This is how abstract names are told from paths.
        let bytes = [&[0], self.name.as_bytes()].concat();
        PathBuf::from(OsString::from_vec(bytes))
    }

    pub fn listen(&self) -> Result<UnixListener> {
        UnixListener::bind(self.address())
    }

    /// Connects, if it is served by somebody who may write the store, to somebody who may read it.
    pub async fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(self.address()).await?;
        let (own, server) = (own_uid(), stream.peer_cred()?.uid());
        if server != own && server != self.owner && server != ROOT {
            return Err(refused(format!("the socket @{} is served by the user {server}", self.name)));
        }
        if !is_admitted(own, server) {
            return Err(refused(format!("the socket @{} is for the user {server}", self.name)));
        }
        Ok(stream)
    }
}

/// Whether a server lets in who has connected: its own user, and root.
pub(super) fn admits(stream: &UnixStream) -> Result<bool> {
    Ok(is_admitted(stream.peer_cred()?.uid(), own_uid()))
}

fn is_admitted(client: u32, server: u32) -> bool {
    client == server || client == ROOT
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_user_itself_and_root_are_let_in() {
        for (client, server, admitted) in [(7, 7, true), (0, 7, true), (8, 7, false), (7, 0, false)] {
            assert_eq!(is_admitted(client, server), admitted, "{client} at {server}");
        }
    }

    #[tokio::test]
    async fn a_name_is_served_once_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("meta")).unwrap();
        let socket = Socket::of(dir.path()).unwrap();
        assert_eq!(socket.connect().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let listener = socket.listen().unwrap();
        assert_eq!(socket.listen().unwrap_err().kind(), ErrorKind::AddrInUse);
        socket.connect().await.unwrap();
        drop(listener);
        assert_eq!(socket.connect().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
