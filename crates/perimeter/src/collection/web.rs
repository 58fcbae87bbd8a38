//! A place on the web that is asked: its address, whom it trusts, what it is sent of secrets and of the
//! caller, and the bounds of its answers. Common to `http` and `mcp`.
//!
//! Invariants: nothing is asked of another scheme, host or port than the configuration names, nor of a
//! path outside of it: redirects are not followed, variables that name a proxy do not count. An answer
//! is bounded in bytes and in time, as a whole. No error has an address, a header or a part of an
//! answer in it, but for the number of the answer's status.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::error::DataFusionError;
use kafscale_settings::units::ByteSize;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, de};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::CollectionError;
use super::json_rows::JsonError;
use super::reach::{ANSWER_DEFAULT, CONNECT_DEFAULT, CONNECTIONS_DEFAULT, Security, Tls, TlsError, is_local};
use super::remote::Memory;
use super::told::{Told, escaped};
use crate::caller::Caller;
use crate::secret::{Secret, SecretError, SecretSlot, SecretSource};

const BYTES_DEFAULT: u64 = 16 << 20;
const BYTES_MAX: u64 = 256 << 20;
/// Parts of names of headers whose values are secrets.
const SECRETIVE: [&str; 7] = ["auth", "cookie", "key", "token", "secret", "password", "credential"];
/// Headers that are ours to set.
const OURS: [&str; 8] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "accept",
    "accept-encoding",
    "upgrade",
];

/// What the settings of both kinds say in common.
#[derive(Debug, Clone, Default)]
pub struct SiteConfig {
    pub url: String,
    pub tls: Option<Tls>,
    pub tls_ca_file: Option<PathBuf>,
    pub bearer: Option<SecretSource>,
    pub headers: BTreeMap<String, Header>,
    pub caller_headers: BTreeMap<String, Told>,
    pub connect_timeout: Option<Duration>,
    pub answer_timeout: Option<Duration>,
    pub max_connections: Option<usize>,
    pub max_bytes: Option<String>,
}

/// What a header is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    Plain(String),
    Secret(SecretSource),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_any(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> de::Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or where a secret is, as { env = \"NAME\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Header, E> {
        Ok(Header::Plain(text.to_owned()))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Header, A::Error> {
        SecretSource::deserialize(MapAccessDeserializer::new(map)).map(Header::Secret)
    }
}

/// Why the settings cannot be used. None repeats a value.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("url: an address is needed, as https://host/path")]
    Url,
    #[error("url: a name or a password must not stand in it; use `bearer` or `headers`")]
    UrlWithSecret,
    #[error("url: what begins with ? or # does not belong there")]
    UrlWithQuery,
    #[error(
        "url: http:// would send everything unprotected: write https://, or tls = \"off\" if that is meant"
    )]
    Unprotected,
    #[error("tls = \"off\" and https:// contradict each other")]
    Contradiction,
    #[error("headers: `{0}` is no name for a header that can be set here")]
    HeaderName(String),
    #[error("headers: the value of `{0}` is no text that a header can have")]
    HeaderValue(String),
    #[error("headers: `{0}` is there twice, as `bearer`, in `headers` or in `caller_headers`")]
    HeaderTwice(String),
    #[error(
        "headers: `{0}` looks like a secret, which must not stand in the file itself; write where it is: \
         {{ env = \"NAME\" }}, {{ file = \"PATH\" }} or {{ command = [\"program\", \"argument\"] }}"
    )]
    LiteralSecret(String),
    #[error("max_bytes: {0}")]
    Bytes(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no client of HTTP can be made of these settings")]
    Client(#[source] reqwest::Error),
}

/// Why there is no answer that can be used. For the operator.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("there was no whole answer within {0:?}")]
    Late(Duration),
    #[error("a secret cannot be read")]
    Secret(#[from] SecretError),
    #[error("a secret is no text that a header can have")]
    SecretForm,
    #[error("the source cannot be spoken to")]
    Transport(#[source] reqwest::Error),
    #[error("the source answered with the status {0}{hint}", hint = hint(*.0))]
    Status(StatusCode),
    #[error("the answer has more than {0} bytes (max_bytes)")]
    TooLarge(usize),
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("the answer leads to another host, or to a path outside of the configuration's url")]
    Elsewhere,
    #[error("there are more pages than {0} (max_pages)")]
    TooManyPages(usize),
    #[error("a page leads to itself again")]
    Circle,
    #[error("the answer does not have the form that it should have: {0}")]
    Form(&'static str),
    #[error("{0}")]
    Tool(#[from] super::mcp::ToolError),
    #[error("memory for the answer")]
    Memory(#[source] DataFusionError),
    #[error("rows cannot be put together")]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("of the table {table}")]
    At { table: String, source: Box<Failed> },
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        _ if status.is_redirection() => {
            ", which leads elsewhere and is not followed: write the address that it leads to"
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ": see the secrets in bearer or headers",
        StatusCode::NOT_FOUND => ": see url and path",
        _ => "",
    }
}

impl Failed {
    pub fn told(self, collection: &str) -> CollectionError {
        let name = collection.to_owned();
        match self.root() {
            Failed::Late(limit) => CollectionError::TimedOut { collection: name, limit: *limit },
            Failed::Secret(_) | Failed::SecretForm => {
                CollectionError::Refused { collection: name, source: self.into() }
            }
            Failed::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                CollectionError::Refused { collection: name, source: self.into() }
            }
            Failed::Tool(error) if error.is_refusal() => {
                CollectionError::Refused { collection: name, source: self.into() }
            }
            Failed::Transport(_) | Failed::Status(StatusCode::TOO_MANY_REQUESTS) => {
                CollectionError::Unreachable { collection: name, source: self.into() }
            }
            Failed::Status(status) if status.is_server_error() => {
                CollectionError::Unreachable { collection: name, source: self.into() }
            }
            _ => CollectionError::Unusable { collection: name, source: self.into() },
        }
    }

    fn root(&self) -> &Failed {
        match self {
            Failed::At { source, .. } => source.root(),
            other => other,
        }
    }
}

/// For the query: a lack of memory is the statement's, everything else the collection's.
pub fn engine_error(failed: Failed, collection: &str) -> DataFusionError {
    match failed {
        Failed::Memory(error) => error,
        Failed::At { source, .. } if matches!(*source, Failed::Memory(_)) => {
            engine_error(*source, collection)
        }
        other => other.told(collection).into(),
    }
}

#[derive(Debug)]
enum Sent {
    Plain(HeaderValue),
    /// Behind the prefix.
    Secret(&'static str, SecretSlot),
}

/// See the file's comment.
#[derive(Debug)]
pub struct Site {
    client: Client,
    url: Url,
    headers: Vec<(HeaderName, Sent)>,
    caller_headers: Vec<(HeaderName, Told)>,
    pub answer_limit: Duration,
    pub bytes_max: usize,
    places: Arc<Semaphore>,
}

impl Site {
    /// `base` is the directory of the configuration. Nothing is connected to yet.
    pub fn new(config: &SiteConfig, base: &Path) -> Result<Site, SiteError> {
        let url = checked_url(config)?;
        let (headers, caller_headers) = checked_headers(config, base)?;
        let bytes_max = match &config.max_bytes {
            Some(text) => text.parse::<ByteSize>().map_err(SiteError::Bytes)?.0,
            None => BYTES_DEFAULT,
        };
        if !(1..=BYTES_MAX).contains(&bytes_max) {
            return Err(SiteError::Bytes(format!("between 1 B and {} are possible", ByteSize(BYTES_MAX))));
        }
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .connect_timeout(config.connect_timeout.unwrap_or(CONNECT_DEFAULT))
            .user_agent(concat!("kafscale-perimeter/", env!("CARGO_PKG_VERSION")));
        if url.scheme() == "https" {
            let host = url.host_str().unwrap_or_default();
            let wanted = Some(Tls::VerifyFull);
            if let Security::Tls(tls) = Security::of(host, wanted, config.tls_ca_file.as_deref(), base)? {
                builder = builder.use_preconfigured_tls(tls.as_ref().clone());
            }
        }
        Ok(Site {
            client: builder.build().map_err(SiteError::Client)?,
            url,
            headers,
            caller_headers,
            answer_limit: config.answer_timeout.unwrap_or(ANSWER_DEFAULT),
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            places: Arc::new(Semaphore::new(config.max_connections.unwrap_or(CONNECTIONS_DEFAULT))),
        })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn security(&self) -> &'static str {
        if self.url.scheme() == "https" { "TLS, verified" } else { "no TLS" }
    }

    /// Whether an address belongs to this place.
    pub fn has(&self, url: &Url) -> bool {
        let below = self.url.path().trim_end_matches('/');
        let rest = url.path().strip_prefix(below);
        url.origin() == self.url.origin()
            && url.username().is_empty()
            && url.password().is_none()
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Asks. The limit of time is that of the whole answer, with its body.
    pub async fn ask(&self, question: Question<'_>, caller: &Caller) -> Result<Reply, Failed> {
        let deadline = Instant::now() + self.answer_limit;
        let late = || Failed::Late(self.answer_limit);
        let asked = tokio::time::timeout_at(deadline, async {
            let place = Arc::clone(&self.places).acquire_owned().await.expect("it is never closed");
            let (headers, used) = self.sent(caller).await?;
            let mut response = self.send(&question, headers).await?;
            if response.status() == StatusCode::UNAUTHORIZED && self.is_renewed(&used).await? {
                response = self.send(&question, self.sent(caller).await?.0).await?;
            }
            Ok::<_, Failed>((response, place))
        });
        let (response, place) = asked.await.map_err(|_| late())??;
        Ok(Reply { response, deadline, limit: self.answer_limit, bytes_max: self.bytes_max, _place: place })
    }

    async fn send(&self, question: &Question<'_>, headers: HeaderMap) -> Result<Response, Failed> {
        let method = if question.body.is_some() { Method::POST } else { Method::GET };
        let mut request = self.client.request(method, question.url.clone()).headers(headers);
        request = request.header(ACCEPT, question.accept);
        for (name, value) in question.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &question.body {
            request = request.header(CONTENT_TYPE, "application/json").body((*body).to_owned());
        }
        request.send().await.map_err(|error| Failed::Transport(error.without_url()))
    }

    /// The headers of a request, and the secrets in them.
    async fn sent(&self, caller: &Caller) -> Result<(HeaderMap, Vec<Secret>), Failed> {
        let (mut headers, mut used) = (HeaderMap::new(), Vec::new());
        for (name, sent) in &self.headers {
            let value = match sent {
                Sent::Plain(value) => value.clone(),
                Sent::Secret(prefix, slot) => {
                    let secret = slot.get().await?;
                    let text = format!("{prefix}{}", secret.expose());
                    let mut value = HeaderValue::from_str(&text).map_err(|_| Failed::SecretForm)?;
                    value.set_sensitive(true);
                    used.push(secret);
                    value
                }
            };
            headers.insert(name.clone(), value);
        }
        for (name, told) in &self.caller_headers {
            let value = HeaderValue::from_str(&escaped(&told.of(caller)));
            headers.insert(name.clone(), value.expect("what is escaped is ASCII"));
        }
        Ok((headers, used))
    }

    /// Whether one of the secrets has changed since.
    async fn is_renewed(&self, used: &[Secret]) -> Result<bool, Failed> {
        let slots = self.headers.iter().filter_map(|(_, sent)| match sent {
            Sent::Secret(_, slot) => Some(slot),
            Sent::Plain(_) => None,
        });
        let mut is_renewed = false;
        for (slot, secret) in slots.zip(used) {
            is_renewed |= slot.after_refusal(secret).await?.is_some();
        }
        Ok(is_renewed)
    }
}

fn checked_url(config: &SiteConfig) -> Result<Url, SiteError> {
    let url: Url = config.url.parse().map_err(|_| SiteError::Url)?;
    let host = url.host_str().ok_or(SiteError::Url)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SiteError::UrlWithSecret);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(SiteError::UrlWithQuery);
    }
    match (url.scheme(), config.tls) {
        ("https", None | Some(Tls::VerifyFull)) => Ok(url),
        ("https", Some(Tls::Off)) => Err(SiteError::Contradiction),
        ("http", Some(Tls::VerifyFull)) => Err(SiteError::Unprotected),
        ("http", None) if !is_local(host) => Err(SiteError::Unprotected),
        ("http", _) => Ok(url),
        _ => Err(SiteError::Url),
    }
}

type Headers = (Vec<(HeaderName, Sent)>, Vec<(HeaderName, Told)>);

fn checked_headers(config: &SiteConfig, base: &Path) -> Result<Headers, SiteError> {
    let mut headers = Vec::new();
    let bearer = config.bearer.clone().map(|source| SecretSlot::new(source, base));
    headers.extend(bearer.map(|slot| (AUTHORIZATION, Sent::Secret("Bearer ", slot))));
    for (name, header) in &config.headers {
        let sent = match header {
            Header::Secret(source) => Sent::Secret("", SecretSlot::new(source.clone(), base)),
            Header::Plain(text) => {
                let lower = name.to_ascii_lowercase();
                if SECRETIVE.iter().any(|part| lower.contains(part)) {
                    return Err(SiteError::LiteralSecret(name.clone()));
                }
                let value = HeaderValue::from_str(text);
                Sent::Plain(value.map_err(|_| SiteError::HeaderValue(name.clone()))?)
            }
        };
        headers.push((header_name(name)?, sent));
    }
    let of_caller = config.caller_headers.iter().map(|(name, told)| Ok((header_name(name)?, *told)));
    let caller_headers: Vec<_> = of_caller.collect::<Result<_, SiteError>>()?;
    let names = headers.iter().map(|(name, _)| name).chain(caller_headers.iter().map(|(name, _)| name));
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name.clone()) {
            return Err(SiteError::HeaderTwice(name.to_string()));
        }
    }
    Ok((headers, caller_headers))
}

fn header_name(name: &str) -> Result<HeaderName, SiteError> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    let allowed =
        parsed.filter(|parsed| !OURS.contains(&parsed.as_str()) && !parsed.as_str().starts_with("mcp-"));
    allowed.ok_or_else(|| SiteError::HeaderName(name.to_owned()))
}

/// What is asked. With a body it is a POST, otherwise a GET.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    pub url: &'q Url,
    pub accept: &'static str,
    pub headers: &'q [(&'static str, String)],
    pub body: Option<&'q str>,
}

/// An answer of which the body was not read yet.
pub struct Reply {
    response: Response,
    deadline: Instant,
    limit: Duration,
    bytes_max: usize,
    _place: OwnedSemaphorePermit,
}

impl Reply {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// All headers of that name that are text.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// The whole body.
    pub async fn body(mut self, memory: &Memory) -> Result<Vec<u8>, Failed> {
        let mut body = Vec::new();
        while self.more(&mut body, memory).await? {}
        Ok(body)
    }

    /// Appends the next bytes. False: there are no more.
    pub async fn more(&mut self, body: &mut Vec<u8>, memory: &Memory) -> Result<bool, Failed> {
        let chunk = tokio::time::timeout_at(self.deadline, self.response.chunk()).await;
        let chunk = chunk.map_err(|_| Failed::Late(self.limit))?;
        let Some(chunk) = chunk.map_err(|error| Failed::Transport(error.without_url()))? else {
            return Ok(false);
        };
        if body.len() + chunk.len() > self.bytes_max {
            return Err(Failed::TooLarge(self.bytes_max));
        }
        memory.charge(chunk.len()).map_err(Failed::Memory)?;
        body.extend_from_slice(&chunk);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> SiteConfig {
        SiteConfig { url: url.to_owned(), ..SiteConfig::default() }
    }

    fn refused(config: &SiteConfig) -> String {
        Site::new(config, Path::new("/")).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn addresses_are_checked_and_never_repeated() {
        for (url, why) in [
            ("", "an address is needed"),
            ("crm.example/api", "an address is needed"),
            ("ftp://crm.example", "an address is needed"),
            ("file:///etc/passwd", "an address is needed"),
            ("https://user:hunter2@crm.example", "must not stand in it"),
            ("https://crm.example/?api_key=hunter2", "what begins with ?"),
            ("http://crm.example", "unprotected"),
            ("http://10.0.0.1", "unprotected"),
        ] {
            let error = refused(&config(url));
            assert!(error.contains(why) && !error.contains("hunter2"), "{url}: {error}");
        }
        let off = |url: &str| SiteConfig { tls: Some(Tls::Off), ..config(url) };
        assert!(Site::new(&off("http://crm.example"), Path::new("/")).is_ok());
        assert!(Site::new(&config("http://127.0.0.1:8080/api"), Path::new("/")).is_ok());
        assert!(refused(&off("https://crm.example")).contains("contradict"));
    }

    #[test]
    fn secrets_do_not_stand_in_the_file() {
        let with = |name: &str, header: Header| SiteConfig {
            headers: BTreeMap::from([(name.to_owned(), header)]),
            ..config("http://localhost")
        };
        for name in ["Authorization", "X-Api-Key", "cookie", "X-Auth", "private-token"] {
            let error = refused(&with(name, Header::Plain("hunter2".to_owned())));
            assert!(error.contains("{ env = \"NAME\" }") && !error.contains("hunter2"), "{error}");
            let secret = Header::Secret(SecretSource::Env("A".to_owned()));
            assert!(Site::new(&with(name, secret), Path::new("/")).is_ok(), "{name}");
        }
        for name in
            ["Host", "content-length", "Transfer-Encoding", "a b", "", "Mcp-Session-Id", "Accept-Encoding"]
        {
            assert!(refused(&with(name, Header::Plain("x".to_owned()))).contains("no name"), "{name}");
        }
        assert!(refused(&with("X-Version", Header::Plain("a\r\nb: c".to_owned()))).contains("no text"));
        let twice = SiteConfig {
            bearer: Some(SecretSource::Env("A".to_owned())),
            ..with("authorization", Header::Secret(SecretSource::Env("B".to_owned())))
        };
        assert!(refused(&twice).contains("twice"));
        let large = SiteConfig { max_bytes: Some("1GiB".to_owned()), ..config("http://localhost") };
        assert!(refused(&large).contains("max_bytes"));
    }

    #[test]
    fn only_what_is_below_the_address_belongs_to_it() {
        let site = Site::new(&config("http://localhost:81/api/v2/"), Path::new("/")).unwrap();
        let has = |url: &str| site.has(&url.parse().unwrap());
        assert!(has("http://localhost:81/api/v2") && has("http://localhost:81/api/v2/a?b=c"));
        for url in [
            "http://localhost:81/api/v23",
            "http://localhost:81/api",
            "http://localhost:81/api/v2/../secrets",
            "http://localhost:81/api/v2/%2e%2e/secrets",
            "http://localhost:82/api/v2/a",
            "https://localhost:81/api/v2/a",
            "http://other:81/api/v2/a",
            "http://me@localhost:81/api/v2/a",
            "file:///api/v2/a",
        ] {
            assert!(!has(url), "{url}");
        }
    }
}
