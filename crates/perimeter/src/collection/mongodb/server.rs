//! A database, and what it is asked: `find`, `listCollections`, `buildInfo` and `connectionStatus`.
//! There is no way here to send anything else.
//!
//! Invariants: nothing of a message of the server, which may hold values, is in an error; a cursor
//! that nobody reads any more is closed on the server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{
    ClientOptions, Credential, FindOptions, ReadConcern, ReadPreference, SelectionCriteria, ServerAddress,
    Tls as DriverTls, TlsOptions,
};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use mongodb::{Client, Database};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::config::{MongoConfig, Preference};
use crate::collection::CollectionError;
use crate::collection::reach::{Limits, Tls, is_local};
use crate::secret::{Secret, SecretError, SecretSlot};

/// Documents of one answer. The server's own limit of an answer is 16 MiB.
const BATCH_DOCUMENTS: u32 = 1_000;
const NAMES_MAX: usize = 10_000;
/// The server's own collections.
const OF_SERVER: &str = "system.";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MongoConfigError {
    #[error("hosts: one at least, each with its port, as mongo.example:27017")]
    Hosts,
    #[error("user and password belong together")]
    Login,
    #[error("tls = \"off\" and tls_ca_file contradict each other")]
    Contradiction,
    #[error("tables.{table}.fields: there is no column {column} in `columns`")]
    Field { table: String, column: String },
}

/// Why there is no answer. For the operator.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("the password cannot be read")]
    Secret(#[from] SecretError),
    #[error("there was no answer within {0:?}")]
    Late(Duration),
    /// Its message may hold values.
    #[error("the server refused, with the code {0}")]
    Code(i32),
    #[error("the server does not let the user in")]
    Login,
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the server answered something that is no answer")]
    Form,
    #[error("there are more than {NAMES_MAX} collections")]
    TooMany,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        match error.kind.as_ref() {
            ErrorKind::Command(command) => Failed::Code(command.code),
            ErrorKind::Authentication { .. } => Failed::Login,
            // These tell addresses and what became of connections, and no values.
            ErrorKind::Io(_)
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::DnsResolve { .. }
            | ErrorKind::InvalidTlsConfig { .. } => {
                Failed::Unreachable(error.kind.to_string().chars().take(500).collect())
            }
            _ => Failed::Form,
        }
    }
}

/// Unauthorized, AuthenticationFailed, and what Atlas says instead.
const REFUSED: [i32; 3] = [13, 18, 8_000];
/// Hosts that cannot be reached, ends of a server, elections, and too many requests.
const LATER: [i32; 15] =
    [6, 7, 24, 89, 91, 134, 189, 202, 262, 9_001, 10_107, 11_600, 11_602, 13_435, 13_436];
/// The cursor or its plan is gone, with the collection perhaps.
const CHANGED: [i32; 3] = [43, 175, 237];
const OUT_OF_TIME: i32 = 50;

impl Failed {
    /// What callers are told, with what the operator's log says as its source.
    pub fn told(self, collection: &str, statement: Duration) -> CollectionError {
        let collection = collection.to_owned();
        match self {
            Failed::Late(limit) => CollectionError::TimedOut { collection, limit },
            Failed::Code(OUT_OF_TIME) => CollectionError::TimedOut { collection, limit: statement },
            Failed::Secret(_) | Failed::Login => CollectionError::Refused { collection, source: self.into() },
            Failed::Code(code) if REFUSED.contains(&code) => {
                CollectionError::Refused { collection, source: self.into() }
            }
            Failed::Code(code) if CHANGED.contains(&code) => {
                CollectionError::Changed { collection, source: self.into() }
            }
            Failed::Code(code) if LATER.contains(&code) => {
                CollectionError::Unreachable { collection, source: self.into() }
            }
            Failed::Unreachable(_) => CollectionError::Unreachable { collection, source: self.into() },
            Failed::Code(_) | Failed::Form | Failed::TooMany => {
                CollectionError::Unusable { collection, source: self.into() }
            }
        }
    }
}

#[derive(Debug)]
pub struct Server {
    pub config: MongoConfig,
    pub limits: Limits,
    hosts: Vec<ServerAddress>,
    tls: Option<TlsOptions>,
    password: Option<SecretSlot>,
    /// One for all; made when it is first needed, and again when the password was refused.
    client: Mutex<Option<(Client, Option<Secret>)>>,
}

/// What is asked of a collection.
#[derive(Debug, Clone, Default)]
pub struct Question {
    pub filter: Document,
    pub projection: Document,
    pub limit: Option<usize>,
    /// Who asks.
    pub comment: String,
}

impl Server {
    /// `base` is the directory of the configuration.
    pub fn new(config: MongoConfig, base: &Path) -> Result<Server, MongoConfigError> {
        if config.user.is_some() != config.password.is_some() {
            return Err(MongoConfigError::Login);
        }
        for (table, declared) in &config.tables {
            let is_there = |name: &&String| declared.columns.0.iter().any(|column| column.name == **name);
            if let Some(column) = declared.fields.keys().find(|name| !is_there(name)) {
                return Err(MongoConfigError::Field { table: table.clone(), column: column.clone() });
            }
        }
        let hosts = config.hosts.iter().map(|host| address(host)).collect::<Option<Vec<_>>>();
        let hosts = hosts.filter(|hosts| !hosts.is_empty()).ok_or(MongoConfigError::Hosts)?;
        let ca_file: Option<PathBuf> = config.tls_ca_file.as_ref().map(|path| base.join(path));
        let is_near =
            |host: &ServerAddress| matches!(host, ServerAddress::Tcp { host, .. } if is_local(host));
        let with_tls = match config.tls {
            Some(Tls::Off) if ca_file.is_some() => return Err(MongoConfigError::Contradiction),
            Some(Tls::Off) => false,
            Some(Tls::VerifyFull) => true,
            None => ca_file.is_some() || !hosts.iter().all(is_near),
        };
        Ok(Server {
            limits: config.limits(),
            hosts,
            tls: with_tls.then(|| TlsOptions::builder().ca_file_path(ca_file).build()),
            password: config.password.clone().map(|source| SecretSlot::new(source, base)),
            client: Mutex::default(),
            config,
        })
    }

    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The names of the collections that the user may read.
    pub async fn names(&self, comment: &str) -> Result<Vec<String>, Failed> {
        let comment = Bson::from(comment);
        let list = move |database: Database| {
            let comment = comment.clone();
            async move {
                database.list_collection_names().authorized_collections(true).comment(comment).await
            }
            .boxed()
        };
        let mut names = self.ask(list).await?;
        names.retain(|name| !name.starts_with(OF_SERVER));
        match names.len() > NAMES_MAX {
            true => Err(Failed::TooMany),
            false => Ok(names),
        }
    }

    /// `buildInfo`, and `connectionStatus` with what the user may do.
    pub async fn status(&self) -> Result<(Document, Document), Failed> {
        let run = |command: Document| {
            self.ask(move |database: Database| {
                let command = command.clone();
                async move { database.run_command(command).await }.boxed()
            })
        };
        let build = run(doc! { "buildInfo": 1 }).await?;
        Ok((build, run(doc! { "connectionStatus": 1, "showPrivileges": true }).await?))
    }

    /// The documents of a collection.
    pub async fn find(self: &Arc<Self>, collection: &str, question: Question) -> Result<Answers, Failed> {
        let limit = question.limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let batch = limit
            .map_or(BATCH_DOCUMENTS, |limit| u32::try_from(limit).unwrap_or(u32::MAX).min(BATCH_DOCUMENTS));
        let options = FindOptions::builder()
            .projection((!question.projection.is_empty()).then_some(question.projection))
            .limit(limit)
            .batch_size(batch)
            .max_time(self.config.statement())
            .comment(Bson::from(question.comment))
            .build();
        let (collection, filter) = (collection.to_owned(), question.filter);
        let find = move |database: Database| {
            let collection = database.collection::<RawDocumentBuf>(&collection);
            let (filter, options) = (filter.clone(), options.clone());
            async move { collection.find(filter).with_options(options).batch().await }.boxed()
        };
        let cursor = Some(self.ask(find).await?);
        Ok(Answers { cursor, limit: self.limits.answer, runtime: Handle::current() })
    }

    /// Asks; once more with the new password where the old one was refused.
    async fn ask<T>(
        &self,
        ask: impl Fn(Database) -> BoxFuture<'static, Result<T, Error>>,
    ) -> Result<T, Failed> {
        let (client, password) = self.client().await?;
        let answer = self.in_time(ask(client.database(&self.config.database))).await;
        if !matches!(answer, Err(Failed::Login | Failed::Code(18))) {
            return answer;
        }
        let renewed = match self.password.as_ref().zip(password) {
            Some((slot, password)) => slot.after_refusal(&password).await?.is_some(),
            None => false,
        };
        // Whatever it was, the next statement logs in anew.
        *self.client.lock().await = None;
        if !renewed {
            return answer;
        }
        let (client, _) = self.client().await?;
        self.in_time(ask(client.database(&self.config.database))).await
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
        let limit = self.limits.answer;
        Ok(tokio::time::timeout(limit, answer).await.map_err(|_| Failed::Late(limit))??)
    }

    async fn client(&self) -> Result<(Client, Option<Secret>), Failed> {
        let mut known = self.client.lock().await;
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let password = match &self.password {
            Some(slot) => Some(slot.get().await?),
            None => None,
        };
        let made = (Client::with_options(self.options(password.as_ref()))?, password);
        *known = Some(made.clone());
        Ok(made)
    }

    fn options(&self, password: Option<&Secret>) -> ClientOptions {
        let MongoConfig { replica_set, user, auth_database, read_preference, .. } = &self.config;
        let credential = password.zip(user.as_ref()).map(|(password, user)| {
            Credential::builder()
                .username(user.clone())
                .password(password.expose().to_owned())
                .source(auth_database.clone().unwrap_or_else(|| "admin".to_owned()))
                .build()
        });
        ClientOptions::builder()
            .app_name("kafscale".to_owned())
            .hosts(self.hosts.clone())
            .repl_set_name(replica_set.clone())
            // Nothing but the configuration leads to another host.
            .direct_connection((self.hosts.len() == 1).then_some(replica_set.is_none()))
            .tls(self.tls.clone().map_or(DriverTls::Disabled, DriverTls::Enabled))
            .credential(credential)
            .connect_timeout(self.limits.connect)
            .server_selection_timeout(self.limits.connect)
            .max_pool_size(u32::try_from(self.limits.connections).unwrap_or(u32::MAX))
            .read_concern(ReadConcern::majority())
            .selection_criteria(SelectionCriteria::ReadPreference(read_preference.of_driver()))
            .build()
    }
}

impl Preference {
    fn of_driver(self) -> ReadPreference {
        let options = None;
        match self {
            Preference::Primary => ReadPreference::Primary,
            Preference::PrimaryPreferred => ReadPreference::PrimaryPreferred { options },
            Preference::Secondary => ReadPreference::Secondary { options },
            Preference::SecondaryPreferred => ReadPreference::SecondaryPreferred { options },
            Preference::Nearest => ReadPreference::Nearest { options },
        }
    }
}

fn address(host: &str) -> Option<ServerAddress> {
    let (name, port) = host.rsplit_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = !name.is_empty() && name.chars().all(plain);
    let port = port.parse().ok().filter(|port: &u16| *port > 0)?;
    is_name.then(|| ServerAddress::Tcp { host: name.to_owned(), port: Some(port) })
}

/// The answers to a question, one after the other.
pub struct Answers {
    /// Until it is dropped.
    cursor: Option<RawBatchCursor>,
    limit: Duration,
    runtime: Handle,
}

impl Answers {
    /// The next documents. Each answer has to come in time.
    pub async fn next(&mut self) -> Result<Option<RawBatch>, Failed> {
        let cursor = self.cursor.as_mut().expect("until it is dropped");
        let answer = tokio::time::timeout(self.limit, cursor.next()).await;
        Ok(answer.map_err(|_| Failed::Late(self.limit))?.transpose()?)
    }
}

impl Drop for Answers {
    /// The driver closes its cursor by a task, wherever this is dropped.
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        drop(self.cursor.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_ports_and_nothing_else() {
        let tcp = |host: &str, port| Some(ServerAddress::Tcp { host: host.into(), port: Some(port) });
        assert_eq!(address("mongo-0.example:27017"), tcp("mongo-0.example", 27_017));
        for host in
            ["mongo", "mongo:", ":1", "mongo:0", "user:pass@mongo:1", "mongo:1/db", "mongo:99999", "[::1]:1"]
        {
            assert_eq!(address(host), None, "{host}");
        }
    }

    #[test]
    fn settings_are_checked() {
        let of = |lines: &str| {
            let config = basic_toml::from_str(&format!("database = \"d\"\n{lines}")).unwrap();
            Server::new(config, Path::new("/")).map(|server| server.is_encrypted()).map_err(|e| e.to_string())
        };
        let far = "hosts = [\"mongo.example:1\"]";
        assert_eq!(of(far), Ok(true));
        assert_eq!(of(&format!("{far}\ntls = \"off\"")), Ok(false));
        assert_eq!(of("hosts = [\"localhost:1\", \"127.0.0.1:2\"]"), Ok(false));
        assert_eq!(of("hosts = [\"localhost:1\", \"mongo.example:1\"]"), Ok(true));
        for (lines, why) in [
            ("hosts = []".to_owned(), "one at least"),
            ("hosts = [\"mongodb://h:1\"]".to_owned(), "each with its port"),
            (format!("{far}\nuser = \"u\""), "belong together"),
            (format!("{far}\ntls = \"off\"\ntls_ca_file = \"x\""), "contradict"),
            (format!("{far}\n[tables.t]\ncolumns = \"a text\"\nfields = {{ b = \"c\" }}"), "no column b"),
        ] {
            assert!(of(&lines).unwrap_err().contains(why), "{lines}");
        }
    }

    #[test]
    fn messages_of_the_server_are_in_no_error() {
        let limit = Duration::from_secs(1);
        let of = |failed: Failed| {
            let error = failed.told("shop", limit);
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            (error.to_string(), source)
        };
        let (told, log) = of(Failed::Code(13));
        assert!(told.contains("refuses the perimeter") && log.contains("13"), "{told} {log}");
        let (told, log) = of(Failed::Unreachable("10.0.0.1:27017: Connection refused".into()));
        assert!(!told.contains("10.0.0.1") && log.contains("Connection refused"), "{told} {log}");
        assert!(of(Failed::Code(50)).0.contains("did not answer within 1s"));
        assert!(of(Failed::Code(43)).0.contains("changed while it was read"));
        assert!(of(Failed::Code(91)).0.contains("try again later"));
        assert!(of(Failed::Code(2)).0.contains("cannot be used"));
    }
}
