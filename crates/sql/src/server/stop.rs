//! Why a statement ends before its answer is complete: its client asked for that, or is gone, or its time is over.

use std::future::{Future, pending};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use pgwire::api::{ClientInfo, ConnectionHandle};
use pgwire::error::{PgWireError, PgWireResult};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::TcpStream;

use super::statements::pg_error;
use crate::error::SqlError;

/// How often a client is looked for whose statement runs.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A connection's socket, to see whether its other end is still there while nobody reads from it.
#[derive(Debug, Clone)]
pub struct Socket(Arc<OwnedFd>);

impl Socket {
    pub fn of(stream: &TcpStream) -> io::Result<Socket> {
        Ok(Socket(Arc::new(stream.as_fd().try_clone_to_owned()?)))
    }

    fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(&*self.0, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let over = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().intersects(over)
    }

    /// Returns when the client is gone.
    async fn gone(&self) {
        while !self.is_gone() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// What a client has asked for so far does not end the statement that comes next. Where a connection is not registered, nothing is asked for.
pub async fn cancelled(client: &impl ClientInfo) -> BoxFuture<'static, ()> {
    match client.session_extensions().get::<Arc<ConnectionHandle>>() {
        Some(handle) => {
            let asked = handle.start_query().await;
            async move {
                if asked.await.is_err() {
                    pending().await
                }
            }
            .boxed()
        }
        None => pending().boxed(),
    }
}

/// Does `work`, unless something ends it first; then `stopping` hears why, and the work is dropped where it stands.
pub async fn unless_stopped<T>(
    work: impl Future<Output = PgWireResult<T>>,
    cancelled: BoxFuture<'static, ()>,
    socket: &Socket,
    timeout: Option<Duration>,
    stopping: impl Fn(&PgWireError),
) -> PgWireResult<T> {
    let mut work = std::pin::pin!(work);
    let late = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => pending().await,
        }
    };
    let why = tokio::select! {
        done = &mut work => return done,
        () = cancelled => pg_error(&SqlError::Cancelled),
        () = late => {
            let ms = timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
            pg_error(&SqlError::Timeout(ms))
        }
        () = socket.gone() => PgWireError::IoError(io::ErrorKind::ConnectionReset.into()),
    };
    stopping(&why);
    Err(why)
}
