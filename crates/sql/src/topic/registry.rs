//! A schema registry: schemas by their ids, and the newest one of a subject, over the HTTP API that Confluent's registry, Karapace and
//! Apicurio (`/apis/ccompat/v7`) have in common.
//!
//! Invariants: an id is asked for once, since it always means the same; each request has a limit on time and bytes, and redirections are
//! not followed, which might carry the password elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafscale_settings::sql::{RegistryLogin, RegistrySettings};
use parking_lot::Mutex;
use reqwest::{Certificate, Client, StatusCode, Url};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::{avro, protobuf};

/// Of one answer.
const MAX_BYTES: usize = 4 << 20;
/// Of one schema, with all that those refer to themselves.
const MAX_REFERENCES: usize = 200;
const MAX_KNOWN: usize = 10_000;
const ATTEMPTS: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(100);
/// An id that nobody knew may be known later.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);

/// Why a registry did not answer as it should. Whoever asks again may have an answer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the schema registry does not answer at {url}: {}", causes(source))]
    Unreachable { url: String, source: reqwest::Error },
    #[error("the schema registry refuses {url}: {status} {message}")]
    Refused { url: String, status: StatusCode, message: String },
    #[error("the schema registry has answered {url} with what is no answer: {why}")]
    Form { url: String, why: String },
}

/// Why a registry cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryUrlError {
    #[error("this is no URL: {0}")]
    Url(<Url as std::str::FromStr>::Err),
    #[error("{}", causes(.0))]
    Client(#[from] reqwest::Error),
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl RegistryError {
    fn is_worth_another_attempt(&self) -> bool {
        match self {
            RegistryError::Unreachable { .. } => true,
            RegistryError::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            RegistryError::Form { .. } => false,
        }
    }
}

/// A schema of the registry.
#[derive(Debug, Clone)]
pub enum Registered {
    Avro(Arc<avro::Schema>),
    Protobuf(protobuf::File),
    /// It is of another kind, or none at all.
    Unusable(String),
    /// The registry does not have it.
    Unknown,
}

type Cell = Arc<OnceCell<(Registered, Instant)>>;

pub struct Registry {
    client: Client,
    url: Url,
    login: RegistryLogin,
    known: Mutex<HashMap<u32, Cell>>,
    runtime: Handle,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// What the registry says of a schema.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    schema: String,
    #[serde(default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
    #[serde(default)]
    id: Option<u32>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i64,
}

/// What the registry says where it refuses.
#[derive(Deserialize)]
struct Refusal {
    error_code: i64,
    message: String,
}

/// There is no such subject, version, or schema. A path that leads nowhere has other numbers, if any.
const NOT_THERE: std::ops::RangeInclusive<i64> = 40_401..=40_403;

impl Registry {
    /// To be called within a runtime, whose threads do the waiting.
    pub fn new(settings: RegistrySettings) -> Result<Registry, RegistryUrlError> {
        let RegistrySettings { url, login, authorities, timeout } = settings;
        let url: Url = url.parse().map_err(RegistryUrlError::Url)?;
        let mut builder = Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("kafscale-analytics/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = authorities {
            for certificate in Certificate::from_pem_bundle(&pem)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        Ok(Registry {
            client: builder.build()?,
            url,
            login,
            known: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    pub fn url(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// A schema by its id, for threads that may wait.
    pub fn wait_for(&self, id: u32) -> Result<Registered, RegistryError> {
        self.runtime.block_on(self.by_id(id))
    }

    /// A schema by its id.
    pub async fn by_id(&self, id: u32) -> Result<Registered, RegistryError> {
        let cell = self.cell(id);
        let ask = async || {
            let answer = self.ask(&["schemas", "ids", &id.to_string()]).await?;
            let schema = match answer {
                Some(answer) => self.read(answer).await?,
                None => Registered::Unknown,
            };
            Ok::<_, RegistryError>((schema, Instant::now()))
        };
        Ok(cell.get_or_try_init(ask).await?.0.clone())
    }

    /// Where the answer for an id is, or will be. Who asks at the same time waits for the same one.
    fn cell(&self, id: u32) -> Cell {
        let mut known = self.known.lock();
        let old = |cell: &Cell| match cell.get() {
            Some((Registered::Unknown, at)) => at.elapsed() > UNKNOWN_FOR,
            Some(_) | None => false,
        };
        if known.len() >= MAX_KNOWN && !known.contains_key(&id) {
            known.clear();
        }
        let cell = known.entry(id).or_default();
        if old(cell) {
            *cell = Cell::default();
        }
        Arc::clone(cell)
    }

    /// The newest schema of a subject. `None`: there is no such subject.
    pub async fn latest(&self, subject: &str) -> Result<Option<Registered>, RegistryError> {
        let Some(answer) = self.ask(&["subjects", subject, "versions", "latest"]).await? else {
            return Ok(None);
        };
        match answer.id {
            // It may be known already, with all that it refers to.
            Some(id) => self.by_id(id).await.map(Some),
            None => self.read(answer).await.map(Some),
        }
    }

    async fn read(&self, answer: Answer) -> Result<Registered, RegistryError> {
        let Answer { schema, schema_type, references, .. } = answer;
        let references = match self.references(references.unwrap_or_default()).await? {
            Ok(references) => references,
            Err(why) => return Ok(Registered::Unusable(why)),
        };
        let kind = schema_type.unwrap_or_else(|| "AVRO".to_owned());
        // Reading may take a while.
        let read = move || match kind.as_str() {
            "AVRO" => {
                let texts: Vec<String> = references.into_iter().map(|(_, text)| text).collect();
                match avro::Schema::parse(&schema, &texts) {
                    Ok(schema) => Registered::Avro(Arc::new(schema)),
                    Err(why) => Registered::Unusable(why.to_string()),
                }
            }
            "PROTOBUF" => {
                let imports: HashMap<String, String> = references.into_iter().collect();
                match protobuf::File::compile("schema.proto", &schema, imports) {
                    Ok(file) => Registered::Protobuf(file),
                    Err(why) => Registered::Unusable(why.to_string()),
                }
            }
            other => Registered::Unusable(format!("it is of type {other}")),
        };
        let failed = |_| Registered::Unusable("it cannot be read".to_owned());
        Ok(tokio::task::spawn_blocking(read).await.unwrap_or_else(failed))
    }

    /// The names and texts of what a schema refers to: each behind what it refers to itself.
    async fn references(
        &self,
        wanted: Vec<Reference>,
    ) -> Result<Result<Vec<(String, String)>, String>, RegistryError> {
        enum Next {
            Ask(Reference),
            Have(String, String),
        }
        let (mut texts, mut seen) = (Vec::new(), HashSet::new());
        let mut open: Vec<Next> = wanted.into_iter().rev().map(Next::Ask).collect();
        while let Some(next) = open.pop() {
            let reference = match next {
                Next::Ask(reference) => reference,
                Next::Have(name, text) => {
                    texts.push((name, text));
                    continue;
                }
            };
            let Reference { name, subject, version } = reference;
            if !seen.insert((subject.clone(), version)) {
                continue;
            }
            if seen.len() > MAX_REFERENCES {
                return Ok(Err(format!("it refers to more than {MAX_REFERENCES} others")));
            }
            let answer = self.ask(&["subjects", &subject, "versions", &version.to_string()]).await?;
            let Some(answer) = answer else {
                return Ok(Err(format!("it refers to version {version} of {subject}, which is not there")));
            };
            open.push(Next::Have(name, answer.schema));
            open.extend(answer.references.unwrap_or_default().into_iter().rev().map(Next::Ask));
        }
        Ok(Ok(texts))
    }

    /// Asks until there is an answer, or it is not worth it. `None`: there is no such thing.
    async fn ask(&self, path: &[&str]) -> Result<Option<Answer>, RegistryError> {
        let mut attempt = 1;
        loop {
            match self.ask_once(path).await {
                Err(error) if attempt < ATTEMPTS && error.is_worth_another_attempt() => {
                    tokio::time::sleep(BACKOFF * 4_u32.pow(attempt - 1)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn ask_once(&self, path: &[&str]) -> Result<Option<Answer>, RegistryError> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let shown = url.to_string();
        let unreachable = |source: reqwest::Error| RegistryError::Unreachable {
            url: shown.clone(),
            source: source.without_url(),
        };
        let request =
            self.client.get(url).header("Accept", "application/vnd.schemaregistry.v1+json, application/json");
        let request = match &self.login {
            RegistryLogin::Nobody => request,
            RegistryLogin::Basic { username, password } => request.basic_auth(username, Some(password)),
            RegistryLogin::Bearer(token) => request.bearer_auth(token),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(RegistryError::Form { url: shown, why: format!("more than {MAX_BYTES} bytes") });
            }
        }
        match status {
            StatusCode::OK => match serde_json::from_slice(&body) {
                Ok(answer) => Ok(Some(answer)),
                Err(e) => Err(RegistryError::Form { url: shown, why: e.to_string() }),
            },
            StatusCode::NOT_FOUND => match serde_json::from_slice::<Refusal>(&body) {
                Ok(refusal) if NOT_THERE.contains(&refusal.error_code) => Ok(None),
                _ => Err(RegistryError::Form {
                    url: shown,
                    why: "404, as no schema registry says it".to_owned(),
                }),
            },
            status => {
                let refusal: Option<Refusal> = serde_json::from_slice(&body).ok();
                let message = refusal.map(|refusal| refusal.message).unwrap_or_default();
                let message = message.chars().take(300).collect();
                Err(RegistryError::Refused { url: shown, status, message })
            }
        }
    }
}
