//! Requests to an etcd cluster: which member is asked, with which token, how often, and what its errors mean.
//!
//! One member is used until it fails, then the next one. A request that may be repeated without harm is tried again on
//! another member; one that changes something only if it cannot have been sent. All attempts together take no longer than
//! the request timeout, so that an etcd that is away is an error soon, and not a wait.
//!
//! Members that have lost their leader refuse (`hasleader`) instead of keeping requests and watches waiting for it.

use std::{
    error::Error as _,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, future::BoxFuture, stream};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{net::UnixStream, sync::Mutex, time::Instant};
use tonic::{
    Code, ConnectError, Request, Status, Streaming,
    client::Grpc,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;

use super::{
    options::{Credentials, EtcdOptions},
    proto,
};
use crate::{Error, ErrorKind, Result, local::socket::Socket, url::EtcdUrl};

/// Largest answer that is taken; pages that are larger are asked for in smaller ones.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Largest request that is sent. etcd's own limit is lower and says so better.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// etcd hangs up on clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// A member that has not answered for so long when the caller gives up is left for the next one.
const SLOW_MEMBER: Duration = Duration::from_millis(500);
/// Between two attempts on the same member: its restart takes a moment.
const SAME_MEMBER_DELAY: Duration = Duration::from_millis(50);

/// Whether a request may be sent a second time when it is not known what became of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    Harmless,
    OnlyIfUnsent,
}

/// A connection to the cluster, made when it is needed and made again when it is lost.
#[derive(Debug)]
pub(super) struct Client {
    url: EtcdUrl,
    members: Vec<Member>,
    /// Grows when a member fails; the member in use is the remainder.
    turn: AtomicUsize,
    auth: Option<Auth>,
    request_timeout: Duration,
}

/// Two connections, because a watcher that is slow to read would hold up what shares its flow control: keepalives, say.
#[derive(Debug)]
struct Member {
    requests: Channel,
    watches: Channel,
}

#[derive(Debug)]
struct Auth {
    credentials: Credentials,
    /// Held while a token is asked for, so that one request asks and the others wait for its token.
    token: Mutex<Token>,
}

#[derive(Clone, Debug)]
enum Token {
    Unknown,
    /// The cluster has authentication switched off.
    NotNeeded,
    Valid(MetadataValue<Ascii>),
}

/// Connects to a Unix socket, whatever the address of the request says.
struct Connector(Socket);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, std::result::Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.0.clone();
        Box::pin(async move { socket.connect().await.map(TokioIo::new) })
    }
}

fn configured(endpoint: Endpoint, options: &EtcdOptions) -> Endpoint {
    endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
}

/// Watches which member a request waits for.
struct Waiting<'a> {
    client: &'a Client,
    turn: usize,
    since: Instant,
    answered: bool,
}

impl Drop for Waiting<'_> {
    /// Not answered means that the caller gave up, by a timeout of ours or of its own.
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() >= SLOW_MEMBER {
            self.client.leave(self.turn);
        }
    }
}

impl Client {
    pub(super) async fn new(url: &EtcdUrl, options: &EtcdOptions) -> Result<Self> {
        let tls = options.tls.load(url).await?;
        let mut members = Vec::with_capacity(url.endpoints.len());
        for endpoint in &url.endpoints {
            let address = format!("{}://{endpoint}", if url.tls { "https" } else { "http" });
            let invalid = |e: tonic::transport::Error| {
                Error::invalid(format!("the etcd endpoint {endpoint}: {}", with_causes(&e)))
            };
            let mut member = configured(Endpoint::from_shared(address).map_err(invalid)?, options);
            if let Some(tls) = &tls {
                member = member.tls_config(tls.clone()).map_err(invalid)?;
            }
            members.push(Member { requests: member.connect_lazy(), watches: member.connect_lazy() });
        }
        let auth = options
            .credentials
            .clone()
            .map(|credentials| Auth { credentials, token: Mutex::new(Token::Unknown) });
        let request_timeout = options.request_timeout;
        Ok(Self { url: url.clone(), members, turn: AtomicUsize::new(0), auth, request_timeout })
    }

    /// For a process of this machine that serves its own store.
    pub(super) fn over_socket(socket: Socket, options: &EtcdOptions) -> Self {
        let named = crate::url::Endpoint { host: socket.name.clone(), port: 0 };
        let endpoint = configured(Endpoint::from_static("http://localhost"), options);
        let connect = || endpoint.connect_with_connector_lazy(Connector(socket.clone()));
        Self {
            url: EtcdUrl { tls: false, endpoints: vec![named], prefix: String::new() },
            members: vec![Member { requests: connect(), watches: connect() }],
            turn: AtomicUsize::new(0),
            auth: None,
            request_timeout: options.request_timeout,
        }
    }

    pub(super) fn has_credentials(&self) -> bool {
        self.auth.is_some()
    }

    /// One question, one answer.
    pub(super) async fn unary<Q, A>(&self, path: &'static str, question: Q, repeat: Repeat) -> Result<A>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.within_timeout(repeat, |turn| self.send_unary(turn, path, question.clone())).await
    }

    /// The first answer of a call whose answers are a stream.
    pub(super) async fn first_answer<Q, A>(&self, path: &'static str, question: Q) -> Result<A>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let send = |turn| {
            let questions = stream::iter([question.clone()]);
            let opened = self.open_stream::<_, A>(&self.member(turn).requests, path, questions);
            async move { opened.await?.message().await?.ok_or_else(ended) }
        };
        self.within_timeout(Repeat::Harmless, send).await
    }

    /// A watch, with the first answer taken from it.
    pub(super) async fn watch(
        &self,
        create: proto::WatchCreateRequest,
    ) -> Result<(proto::WatchResponse, Streaming<proto::WatchResponse>)> {
        let send = |turn| {
            let question = proto::WatchRequest { create_request: Some(create.clone()) };
            // etcd ends the watch when it has no more to be asked.
            let questions = stream::iter([question]).chain(stream::pending());
            let opened = self.open_stream(&self.member(turn).watches, proto::WATCH, questions);
            async move {
                let mut answers: Streaming<proto::WatchResponse> = opened.await?;
                let first = answers.message().await?.ok_or_else(ended)?;
                Ok((first, answers))
            }
        };
        self.within_timeout(Repeat::Harmless, send).await
    }

    /// What a stream that broke off has to say.
    pub(super) fn error(&self, status: &Status) -> Error {
        error(&self.url, status)
    }

    /// Asks for a new token with the next request: permissions may have changed.
    pub(super) async fn forget_token(&self) {
        if let Some(auth) = &self.auth {
            *auth.token.lock().await = Token::Unknown;
        }
    }

    /// Makes sure that the credentials are right.
    pub(super) async fn authenticate(&self) -> Result<()> {
        let send = |turn| async move { self.token(turn).await.map(|_| ()) };
        self.within_timeout(Repeat::Harmless, send).await
    }

    async fn within_timeout<A, F>(&self, repeat: Repeat, send: impl Fn(usize) -> F) -> Result<A>
    where
        F: Future<Output = Result<A, Status>>,
    {
        match tokio::time::timeout(self.request_timeout, self.attempts(repeat, send)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(
                ErrorKind::Retry,
                format!("{}: no answer within {:?}", self.url, self.request_timeout),
            )),
        }
    }

    async fn attempts<A, F>(&self, repeat: Repeat, send: impl Fn(usize) -> F) -> Result<A>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let mut failures = 0;
        let mut had_new_token = false;
        loop {
            let turn = self.turn.load(Ordering::Relaxed);
            let mut waiting = Waiting { client: self, turn, since: Instant::now(), answered: false };
            let outcome = match self.attempt_timeout(repeat) {
                Some(limit) => {
                    tokio::time::timeout(limit, send(turn)).await.unwrap_or_else(|_| Err(silent()))
                }
                None => send(turn).await,
            };
            waiting.answered = true;
            let status = match outcome {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if self.auth.is_some() && !had_new_token && says_token_is_stale(&status) {
                had_new_token = true;
                self.forget_token().await;
                continue;
            }
            if kind(&status) != ErrorKind::Retry {
                return Err(self.error(&status));
            }
            self.leave(turn);
            failures += 1;
            let may_repeat = repeat == Repeat::Harmless || was_not_sent(&status);
            if !may_repeat || failures > self.members.len() {
                return Err(self.error(&status));
            }
            if failures == self.members.len() {
                tokio::time::sleep(SAME_MEMBER_DELAY).await;
            }
        }
    }

    /// A member that accepts requests and does not answer must leave time for asking another one.
    fn attempt_timeout(&self, repeat: Repeat) -> Option<Duration> {
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        (repeat == Repeat::Harmless && members > 1).then(|| self.request_timeout / members)
    }

    fn member(&self, turn: usize) -> &Member {
        &self.members[turn % self.members.len()]
    }

    /// Goes on to the next member, unless somebody else did already.
    fn leave(&self, turn: usize) {
        let moved =
            self.turn.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        if moved.is_ok() && self.members.len() > 1 {
            let (from, to) = (turn % self.members.len(), turn.wrapping_add(1) % self.members.len());
            tracing::warn!(from = %self.url.endpoints[from], to = %self.url.endpoints[to], "another etcd member is used");
        }
    }

    async fn send_unary<Q, A>(&self, turn: usize, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let request = self.request(question).await?;
        let mut grpc = grpc(&self.member(turn).requests);
        ready(&mut grpc).await?;
        Ok(grpc.unary(request, path_of(path), ProstCodec::<Q, A>::default()).await?.into_inner())
    }

    async fn open_stream<Q, A>(
        &self,
        channel: &Channel,
        path: &'static str,
        questions: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let request = self.request(questions).await?;
        let mut grpc = grpc(channel);
        ready(&mut grpc).await?;
        Ok(grpc.streaming(request, path_of(path), ProstCodec::<Q, A>::default()).await?.into_inner())
    }

    async fn request<T>(&self, content: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(content);
        let metadata = request.metadata_mut();
        metadata.insert("hasleader", MetadataValue::from_static("true"));
        if let Token::Valid(token) = self.token(self.turn.load(Ordering::Relaxed)).await? {
            metadata.insert("token", token);
        }
        Ok(request)
    }

    /// The token to use; asks the member for one if there is none.
    async fn token(&self, turn: usize) -> Result<Token, Status> {
        let Some(auth) = &self.auth else { return Ok(Token::NotNeeded) };
        let mut token = auth.token.lock().await;
        if matches!(*token, Token::Unknown) {
            *token = self.ask_for_token(turn, &auth.credentials).await?;
        }
        Ok(token.clone())
    }

    async fn ask_for_token(&self, turn: usize, credentials: &Credentials) -> Result<Token, Status> {
        let Credentials { username, password } = credentials.clone();
        let mut grpc = grpc(&self.member(turn).requests);
        ready(&mut grpc).await?;
        let request = Request::new(proto::AuthenticateRequest { name: username, password });
        let codec = ProstCodec::<_, proto::AuthenticateResponse>::default();
        match grpc.unary(request, path_of(proto::AUTHENTICATE), codec).await {
            Ok(answer) => {
                let token = answer.into_inner().token.parse();
                token.map(Token::Valid).map_err(|_| Status::internal("etcd sent a token that is no text"))
            }
            Err(status) if status.message().contains("authentication is not enabled") => {
                tracing::warn!(etcd = %self.url, "a user was given, but etcd has no authentication enabled");
                Ok(Token::NotNeeded)
            }
            Err(status) => Err(status),
        }
    }
}

fn grpc(channel: &Channel) -> Grpc<Channel> {
    Grpc::new(channel.clone())
        .max_decoding_message_size(MAX_ANSWER_BYTES)
        .max_encoding_message_size(MAX_REQUEST_BYTES)
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|e| Status::from_error(e.into()))
}

fn path_of<P: std::str::FromStr>(path: &'static str) -> P {
    path.parse().ok().expect("the paths of calls are valid")
}

fn ended() -> Status {
    Status::unavailable("the stream ended without an answer")
}

fn silent() -> Status {
    Status::deadline_exceeded("the member did not answer")
}

/// The connection could not be made, so that the request was not sent.
fn was_not_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The answer was larger than [`MAX_ANSWER_BYTES`]; our own side says so.
pub(super) fn is_too_large(error: &Error) -> bool {
    error.to_string().contains(TOO_LARGE)
}

const TOO_LARGE: &str = "decoded message length too large";

fn says_token_is_stale(status: &Status) -> bool {
    let message = status.message();
    status.code() == Code::Unauthenticated
        || message.contains("invalid auth token")
        || message.contains("revision of auth store is old")
        || message.contains("user name is empty")
}

/// What etcd's errors mean for a caller: their codes, and their texts where one code stands for several things
/// (`api/v3rpc/rpctypes/error.go` of etcd).
fn kind(status: &Status) -> ErrorKind {
    let message = status.message();
    if message.contains(TOO_LARGE) {
        return ErrorKind::Invalid;
    }
    // The transport's, not etcd's: whatever its code, the connection is the reason.
    if status.source().is_some() {
        return ErrorKind::Retry;
    }
    let denies = ["authentication failed", "user name is empty", "auth token", "revision of auth store"];
    match status.code() {
        _ if denies.iter().any(|part| message.contains(part)) => ErrorKind::Denied,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => ErrorKind::Retry,
        Code::ResourceExhausted if message.contains("space exceeded") => ErrorKind::Full,
        Code::ResourceExhausted if message.contains("too many requests") => ErrorKind::Retry,
        Code::NotFound if message.contains("lease not found") => ErrorKind::Fenced,
        // A revision of the future is one from before a restore: what was read is not there any more.
        Code::OutOfRange => ErrorKind::Compacted,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        Code::InvalidArgument | Code::ResourceExhausted => ErrorKind::Invalid,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::DataLoss => ErrorKind::Corrupt,
        Code::Ok
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Internal => ErrorKind::Internal,
    }
}

fn error(url: &EtcdUrl, status: &Status) -> Error {
    let mut message = format!("{url}: {}", status.message());
    if let Some(cause) = status.source() {
        let causes = with_causes(cause);
        if !message.ends_with(&causes) {
            message = format!("{message}: {causes}");
        }
    }
    Error::new(kind(status), message)
}

/// An error of the transport with what is behind it; the outermost alone says only "transport error".
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    message
}
