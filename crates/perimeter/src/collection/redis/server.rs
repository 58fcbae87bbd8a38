//! A server, and the commands that are sent to it: all that there are stand in [`Read`], and none
//! of them changes anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kafscale_meta::files::read_small;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, ServerErrorKind, TlsCertificates, Value,
};
use tokio::sync::Mutex;

use super::config::RedisConfig;
use crate::collection::CollectionError;
use crate::collection::reach::{Security, TlsError};
use crate::secret::{Secret, SecretError, SecretSlot};

const MAX_CA_BYTES: u64 = 4 << 20;

/// Every command that is ever sent, by its name.
#[derive(Debug, Clone, Copy)]
pub enum Read {
    Scan,
    Type,
    Pttl,
    StrLen,
    GetRange,
    HLen,
    HMGet,
    HGetAll,
    LLen,
    LRange,
    SCard,
    SMembers,
    ZCard,
    ZRange,
    Info,
    WhoAmI,
    DryRun,
}

impl Read {
    pub fn cmd(self) -> Cmd {
        let words: &[&str] = match self {
            Read::Scan => &["SCAN"],
            Read::Type => &["TYPE"],
            Read::Pttl => &["PTTL"],
            Read::StrLen => &["STRLEN"],
            Read::GetRange => &["GETRANGE"],
            Read::HLen => &["HLEN"],
            Read::HMGet => &["HMGET"],
            Read::HGetAll => &["HGETALL"],
            Read::LLen => &["LLEN"],
            Read::LRange => &["LRANGE"],
            Read::SCard => &["SCARD"],
            Read::SMembers => &["SMEMBERS"],
            Read::ZCard => &["ZCARD"],
            Read::ZRange => &["ZRANGE"],
            Read::Info => &["INFO", "server"],
            Read::WhoAmI => &["ACL", "WHOAMI"],
            Read::DryRun => &["ACL", "DRYRUN"],
        };
        let mut cmd = Cmd::new();
        for word in words {
            cmd.arg(*word);
        }
        cmd
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("there was no answer within {0:?}")]
    Late(Duration),
    #[error("the password cannot be read")]
    Secret(#[from] SecretError),
    #[error("the authorities in {} cannot be read", path.display())]
    Authorities { path: PathBuf, source: std::io::Error },
    #[error("the server refused a command")]
    Driver(#[from] RedisError),
    #[error("an answer does not have the form that it should have")]
    Form,
    #[error("there are more than {0} keys (max_keys)")]
    TooMany(usize),
}

#[derive(Debug)]
pub struct Server {
    pub config: RedisConfig,
    is_encrypted: bool,
    ca_file: Option<PathBuf>,
    password: Option<SecretSlot>,
    /// One for all: commands and answers of all statements pass through it in order.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Server {
    pub fn new(config: RedisConfig, base: &Path) -> Result<Server, TlsError> {
        let security = Security::of(&config.host, config.tls, config.tls_ca_file.as_deref(), base)?;
        Ok(Server {
            is_encrypted: matches!(security, Security::Tls(_)),
            ca_file: config.tls_ca_file.as_ref().map(|path| base.join(path)),
            password: config.password.clone().map(|source| SecretSlot::new(source, base)),
            connection: Mutex::default(),
            config,
        })
    }

    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Sends commands together. An error of one is its answer.
    pub async fn ask(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, Failed> {
        let (connection, was_idle) = self.connection().await?;
        match self.ask_on(connection, &commands).await {
            // It was closed while it waited.
            Err(Failed::Driver(error)) if was_idle && error.is_io_error() && !error.is_timeout() => {
                let (connection, _) = self.connection().await?;
                self.ask_on(connection, &commands).await
            }
            other => other,
        }
    }

    async fn ask_on(
        &self,
        mut connection: MultiplexedConnection,
        commands: &[Cmd],
    ) -> Result<Vec<Value>, Failed> {
        let mut pipeline = redis::pipe();
        for command in commands {
            pipeline.add_command(command.clone());
        }
        pipeline.ignore_errors();
        let limit = self.config.answer();
        let asked = tokio::time::timeout(limit, pipeline.query_async::<Value>(&mut connection)).await;
        let answered = match asked {
            Ok(answered) => answered.map_err(Failed::from),
            Err(_) => Err(Failed::Late(limit)),
        };
        match answered {
            Ok(Value::Array(values)) if values.len() == commands.len() => Ok(values),
            Ok(_) => Err(Failed::Form),
            Err(failed) => {
                // Whatever it was, the next statement begins anew.
                *self.connection.lock().await = None;
                Err(failed)
            }
        }
    }

    /// The one for all, and whether it was there already.
    async fn connection(&self) -> Result<(MultiplexedConnection, bool), Failed> {
        let mut known = self.connection.lock().await;
        if let Some(connection) = &*known {
            return Ok((connection.clone(), true));
        }
        let connection = self.connect().await?;
        *known = Some(connection.clone());
        Ok((connection, false))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Failed> {
        let Some(slot) = &self.password else { return self.login(None).await };
        let password = slot.get().await?;
        match self.login(Some(&password)).await {
            Err(Failed::Driver(error)) if error.kind() == ErrorKind::AuthenticationFailed => {
                match slot.after_refusal(&password).await? {
                    Some(newer) => self.login(Some(&newer)).await,
                    None => Err(Failed::Driver(error)),
                }
            }
            other => other,
        }
    }

    async fn login(&self, password: Option<&Secret>) -> Result<MultiplexedConnection, Failed> {
        let RedisConfig { host, port, database, user, .. } = &self.config;
        let mut settings = RedisConnectionInfo::default().set_db(*database);
        if let Some(user) = user {
            settings = settings.set_username(user);
        }
        if let Some(password) = password {
            settings = settings.set_password(password.expose());
        }
        let address = match self.is_encrypted {
            false => ConnectionAddr::Tcp(host.clone(), *port),
            true => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            }
        };
        let address = address.into_connection_info()?.set_redis_settings(settings);
        let client = match &self.ca_file {
            Some(path) if self.is_encrypted => {
                let authorities = |source| Failed::Authorities { path: path.clone(), source };
                let root_cert = Some(read_small(path, MAX_CA_BYTES).map_err(authorities)?);
                Client::build_with_tls(address, TlsCertificates { client_tls: None, root_cert })?
            }
            _ => Client::open(address)?,
        };
        let limit = self.config.connect();
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(self.config.answer()));
        let connecting = client.get_multiplexed_async_connection_with_config(&options);
        Ok(tokio::time::timeout(limit, connecting).await.map_err(|_| Failed::Late(limit))??)
    }
}

impl Failed {
    /// What callers are told, and what the operator's log says. Messages of the server may hold
    /// keys and values: only their kind is kept.
    pub fn told(self, collection: &str) -> CollectionError {
        let collection = collection.to_owned();
        match self {
            Failed::Late(limit) => CollectionError::TimedOut { collection, limit },
            Failed::Secret(_) | Failed::Authorities { .. } => {
                CollectionError::Refused { collection, source: self.into() }
            }
            Failed::Form | Failed::TooMany(_) => {
                CollectionError::Unusable { collection, source: self.into() }
            }
            Failed::Driver(error) => {
                let refused = error.kind() == ErrorKind::AuthenticationFailed
                    || error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
                    || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
                let what = match error.is_io_error() {
                    true => error.to_string(),
                    false => format!(
                        "the server answered with an error of the kind {}",
                        error.code().unwrap_or("unknown")
                    ),
                };
                let source = Told { what }.into();
                match refused {
                    true => CollectionError::Refused { collection, source },
                    false => CollectionError::Unreachable { collection, source },
                }
            }
        }
    }
}

/// What the operator is told of an error.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Told {
    what: String,
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Says OK to all commands, and closes each connection at the first one after the greeting and `TYPE`.
    async fn closes_what_waits(listener: TcpListener) {
        loop {
            let (mut peer, _) = listener.accept().await.expect("a connection");
            let (mut buffer, mut types) = ([0; 4096], 0);
            while let Ok(count @ 1..) = peer.read(&mut buffer).await {
                types += buffer[..count].windows(4).filter(|word| word == b"TYPE").count();
                let commands = buffer[..count].iter().filter(|byte| **byte == b'*').count();
                if types > 1 || peer.write_all("+OK\r\n".repeat(commands).as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_it_waited_is_made_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(closes_what_waits(listener));
        let text = format!("host = \"127.0.0.1\"\nport = {port}\n[tables.a]\npattern = \"*\"");
        let server = Server::new(basic_toml::from_str(&text).unwrap(), Path::new("/")).unwrap();
        for _ in 0..4 {
            let mut cmd = Read::Type.cmd();
            cmd.arg("a");
            assert_eq!(server.ask(vec![cmd]).await.unwrap(), [Value::Okay]);
        }
    }
}
