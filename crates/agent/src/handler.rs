//! What the protocol asks, answered: the lists of tools, resources and prompts, and each call with its limits, its audit
//! line and its error.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams,
    CompleteResult, CompletionInfo, ContentBlock, CustomRequest, CustomResult, ErrorCode, ErrorData,
    GetPromptRequestParams, GetPromptResponse, GetPromptResult, Implementation, JsonObject,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ProgressNotificationParam, PromptMessage, ProtocolVersion,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Reference, ResourceContents, Role,
    ServerCapabilities, ServerConfig, SubscribeRequestParams, SubscriptionFilter, Tool as Definition,
    UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, RoleServer, SubscriptionContext};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use kafscale_audit::{Decision, Event, hex};
use kafscale_identity::{Principal, Scope};

use crate::answer::{DENIED, ToolError, names, suggest};
use crate::call::{AuditLine, Auditor, Call, Unwritten};
use crate::gate::Peer;
use crate::places::Places;
use crate::prompts::{self, Prompt};
use crate::resources::{Completed, MIME_TYPE, Named, Resources};
use crate::service::Service;
use crate::subscriptions::{self, MAX_SUBSCRIPTIONS, OfSession};
use crate::tools::{Answered, Tool};

/// Streams that wait for changes at once: each holds a connection.
const STREAMS_AT_ONCE: usize = 512;
/// A stream ends after this long, so that its client comes back with a token that still holds.
const STREAM_AT_MOST: Duration = Duration::from_secs(15 * 60);
/// A client that asks for progress of a call hears so often that it goes on.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How long clients may keep lists that only a new release changes.
const LIST_TTL_MS: u64 = 3_600_000;
/// How long clients may keep what a resource shows.
const RESOURCE_TTL_MS: u64 = 1_000;
/// Arguments that are longer go into the audit log as their digest only. A statement has at most 64 KiB, and fits.
const MAX_AUDITED_ARGUMENT_BYTES: usize = 160 << 10;

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    pub service: Service,
    /// What a token must allow.
    pub scope: Scope,
    pub auditor: Auditor,
    /// Ends what would go on.
    pub stop: CancellationToken,
    calls: Arc<Places>,
    streams: Semaphore,
}

impl Shared {
    pub fn new(service: Service, scope: Scope, auditor: Auditor, stop: CancellationToken) -> Self {
        let (calls, streams) = (Places::new(service.limits.calls_at_once), Semaphore::new(STREAMS_AT_ONCE));
        Self { service, scope, auditor, stop, calls, streams }
    }

    pub fn resources(&self) -> Result<&Resources, ErrorData> {
        let none = || ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "this server has no resources", None);
        self.service.resources.as_ref().ok_or_else(none)
    }

    fn prompts(&self) -> Result<&'static [&'static Prompt], ErrorData> {
        let none = || ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "this server has no prompts", None);
        if self.service.prompts.is_empty() { Err(none()) } else { Ok(self.service.prompts) }
    }

    fn lacks_scope(&self) -> String {
        format!("denied: the token lacks the scope {}", self.scope.name())
    }
}

/// See the file's comment.
#[derive(Clone, Debug)]
pub struct Handler {
    shared: Arc<Shared>,
    /// Who speaks over a transport that has no requests to authenticate.
    local: Option<Principal>,
    subscriptions: Arc<OfSession>,
}

/// What serves a connection over HTTP.
#[cfg(not(feature = "conformance"))]
pub fn serving(shared: Arc<Shared>) -> Handler {
    Handler::http(shared)
}

#[cfg(feature = "conformance")]
pub use crate::fixtures::serving;

/// How a call ended.
struct Outcome {
    result: CallToolResult,
    /// For the audit log.
    name: &'static str,
    bytes: usize,
}

impl Handler {
    pub fn http(shared: Arc<Shared>) -> Self {
        Self { shared, local: None, subscriptions: Arc::default() }
    }

    /// Whoever started the process may do what the server is for.
    pub fn stdio(shared: Arc<Shared>) -> Self {
        let local = Some(Principal::new("local", vec![shared.scope]));
        Self { shared, local, subscriptions: Arc::default() }
    }

    fn principal(&self, context: &RequestContext<RoleServer>) -> Result<Principal, ErrorData> {
        let parts = context.extensions.get::<hyper::http::request::Parts>();
        let principal = parts.and_then(|parts| parts.extensions.get::<Principal>()).or(self.local.as_ref());
        principal.cloned().ok_or_else(|| ErrorData::internal_error("the request has no principal", None))
    }

    async fn answer(&self, tool: &Tool, call: Call, arguments: JsonObject) -> Outcome {
        let limit = self.shared.service.limits.call_timeout;
        let answer = async {
            let _place = self.shared.calls.take(&call.principal.name).await;
            tool.call(call, arguments).await
        };
        let outcome = |name, result: CallToolResult, bytes| Outcome { result, name, bytes };
        let (name, why) = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(Answered { structured, text })) => {
                let bytes = text.len();
                let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
                result.structured_content = Some(structured);
                return outcome("ok", result, bytes);
            }
            Ok(Err(error)) => (error.outcome(), error.text()),
            Err(_) => {
                ("timeout", format!("no answer within {} s; try again, or ask for less", limit.as_secs()))
            }
        };
        let bytes = why.len();
        outcome(name, CallToolResult::error(vec![ContentBlock::text(why)]), bytes)
    }

    /// What the tool of a request is told.
    fn call(&self, context: &RequestContext<RoleServer>, principal: Principal, event: Event) -> Call {
        let line = AuditLine::new(self.shared.auditor.clone(), event);
        let meta = Arc::new(context.meta.0.0.clone());
        Call { principal, meta, cancelled: context.ct.clone(), line }
    }

    fn event(&self, context: &RequestContext<RoleServer>, principal: &Principal, method: &str) -> Event {
        let transport = if self.local.is_some() { "stdio" } else { "http" };
        let mut event = Event::new(self.shared.auditor.clock.now_ms(), &principal.name, transport);
        event.client = context.client_info().map(|c| names::text(&format!("{}/{}", c.name, c.version), 100));
        event.oauth_client = principal.client.as_deref().map(str::to_owned);
        event.request_id = Some(names::text(&context.id.to_string(), 100));
        if let Some(parts) = context.extensions.get::<hyper::http::request::Parts>() {
            event.peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip().to_string());
            let session = parts.headers.get("mcp-session-id");
            event.session = session.map(|id| hex(&Sha256::digest(id.as_bytes())[..8]));
        }
        event.method = method.to_owned();
        event
    }

    /// Does what is asked besides tools, with the same limits, scope and line in the audit log. `work` tells the size of
    /// what it answers.
    async fn audited<T, F>(
        &self,
        context: &RequestContext<RoleServer>,
        method: &str,
        asked: Value,
        work: impl FnOnce(Call) -> F,
    ) -> Result<T, ErrorData>
    where
        F: Future<Output = Result<(T, usize), ErrorData>>,
    {
        let started = Instant::now();
        let principal = self.principal(context)?;
        let mut event = self.event(context, &principal, method);
        note_arguments(&mut event, asked, true);
        let allowed = principal.may(self.shared.scope);
        let call = self.call(context, principal, event);
        let line = Arc::clone(&call.line);
        let outcome = if allowed {
            let limit = self.shared.service.limits.call_timeout;
            let limited = async {
                let _place = self.shared.calls.take(&call.principal.name).await;
                work(call).await
            };
            tokio::select! {
                outcome = tokio::time::timeout(limit, limited) => outcome.unwrap_or_else(|_| {
                    let seconds = limit.as_secs();
                    Err(ErrorData::internal_error(format!("no answer within {seconds} s; try again"), None))
                }),
                () = context.ct.cancelled() => Err(ErrorData::internal_error("cancelled", None)),
            }
        } else {
            Err(ErrorData::invalid_request(self.shared.lacks_scope(), None))
        };
        let mut event = line.event();
        if !allowed {
            event.decision = Decision::Deny;
        }
        event.outcome = if outcome.is_ok() { "ok" } else { "error" }.to_owned();
        event.result_bytes = outcome.as_ref().map_or_else(|error| error.message.len(), |(_, bytes)| *bytes);
        event.duration_ms = milliseconds(started.elapsed());
        let written = line.write(event).await;
        written.map_err(|Unwritten| ErrorData::internal_error(Unwritten::WHY, None))?;
        outcome.map(|(answer, _)| answer)
    }

    async fn read(&self, uri: &str, call: Call) -> Result<(ReadResourceResult, usize), ErrorData> {
        let not_found = |why: String| ErrorData::resource_not_found(why, Some(json!({ "uri": uri })));
        let found = self.shared.resources()?.find(uri).ok_or_else(|| {
            not_found("no such resource: see resources/list and resources/templates/list".to_owned())
        });
        let (resource, name) = found?;
        let tool = self.shared.service.tool(resource.tool);
        let tool = tool.ok_or_else(|| ErrorData::internal_error("the resource is of no tool", None))?;
        let arguments: JsonObject = serde_json::from_value((resource.arguments)(&name)).unwrap_or_default();
        let Answered { text, .. } = tool.call(call, arguments).await.map_err(|error| match error {
            ToolError::Invalid(why) => not_found(why),
            other => error_data(other),
        })?;
        let bytes = text.len();
        let contents = ResourceContents::text(text, uri).with_mime_type(MIME_TYPE);
        let result = ReadResourceResult::new(vec![contents]);
        Ok((result.with_cache_scope(CacheScope::Private).with_ttl_ms(RESOURCE_TTL_MS), bytes))
    }

    async fn names(
        &self,
        named: Named,
        prefix: &str,
        call: Call,
    ) -> Result<(CompleteResult, usize), ErrorData> {
        let found = self.shared.resources()?.complete(call, named, prefix).await;
        let Completed { first, total } = found.map_err(error_data)?;
        let bytes = first.iter().map(String::len).sum();
        let has_more = total > first.len();
        let completion = CompletionInfo::with_pagination(first, u32::try_from(total).ok(), has_more);
        let completion = completion.map_err(|why| ErrorData::internal_error(why, None))?;
        Ok((CompleteResult::new(completion), bytes))
    }
}

/// Puts arguments into a line of the audit log: their digest always, themselves if they may be `shown` and are short.
pub fn note_arguments(event: &mut Event, arguments: Value, shown: bool) {
    let text = arguments.to_string();
    event.arguments_sha256 = Some(hex(&Sha256::digest(text.as_bytes())));
    event.arguments = (shown && text.len() <= MAX_AUDITED_ARGUMENT_BYTES).then_some(arguments);
}

/// Whether a method with parameters is served.
fn is_served(service: &Service, method: &str, is_legacy: bool) -> bool {
    match method {
        "tools/call" => true,
        "prompts/get" => !service.prompts.is_empty(),
        "resources/read" | "completion/complete" => service.resources.is_some(),
        "resources/subscribe" | "resources/unsubscribe" => is_legacy && service.resources.is_some(),
        _ => false,
    }
}

/// Tells a client that asked for it that its call goes on, for as long as it does.
async fn tell_progress(context: &RequestContext<RoleServer>, started: Instant) -> Infallible {
    let Some(token) = context.meta.get_progress_token() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let seconds = started.elapsed().as_secs_f64();
        let progress = ProgressNotificationParam::new(token.clone(), seconds).with_message("still at work");
        // A client that is gone ends the call, and not this.
        let _ = context.peer.notify_progress(progress).await;
    }
}

/// What is wrong with parameters that do not have the shape of their method's.
fn shape_of(method: &str) -> String {
    match method {
        "tools/call" => {
            "params must be an object with a name and, if any, arguments, which must be an object".to_owned()
        }
        other => format!("params do not have the shape that {other} has in this protocol"),
    }
}

fn error_data(error: ToolError) -> ErrorData {
    match error {
        ToolError::Invalid(why) => ErrorData::invalid_params(why, None),
        ToolError::Unavailable(why) => ErrorData::internal_error(why, None),
        ToolError::Denied(why) => ErrorData::invalid_request(why, None),
    }
}

/// Every list has one page.
fn first_page(request: Option<PaginatedRequestParams>) -> Result<(), ErrorData> {
    match request.and_then(|request| request.cursor) {
        Some(_) => Err(ErrorData::invalid_params("there is one page only: leave the cursor out", None)),
        None => Ok(()),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let service = &self.shared.service;
        let mut capabilities = ServerCapabilities::builder().enable_tools().build();
        let offers_prompts = !service.prompts.is_empty();
        capabilities.prompts = offers_prompts.then(Default::default);
        if service.resources.is_some() {
            let all = ServerCapabilities::builder().enable_resources().enable_resources_subscribe().build();
            capabilities.resources = all.resources;
            capabilities.completions = Some(Default::default());
        }
        let implementation = Implementation::new(service.name, service.version).with_title(service.title);
        ServerConfig::new(capabilities)
            .with_server_info(implementation)
            .with_instructions(service.instructions)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        first_page(request)?;
        let tools = self.shared.service.tools.iter().map(|tool| tool.definition().clone()).collect();
        let list = ListToolsResult::with_all_items(tools);
        Ok(list.with_cache_scope(CacheScope::Private).with_ttl_ms(LIST_TTL_MS))
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        first_page(request)?;
        let prompts = self.shared.prompts()?.iter().map(|prompt| prompt.definition());
        let list = ListPromptsResult::with_all_items(prompts.collect());
        Ok(list.with_cache_scope(CacheScope::Private).with_ttl_ms(LIST_TTL_MS))
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        first_page(request)?;
        let list = ListResourcesResult::with_all_items(self.shared.resources()?.definitions());
        Ok(list.with_cache_scope(CacheScope::Private).with_ttl_ms(LIST_TTL_MS))
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        first_page(request)?;
        let list = ListResourceTemplatesResult::with_all_items(self.shared.resources()?.templates());
        Ok(list.with_cache_scope(CacheScope::Private).with_ttl_ms(LIST_TTL_MS))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let asked = json!({ "uri": request.uri });
        let read = |call| self.read(&request.uri, call);
        self.audited(&context, "resources/read", asked, read).await.map(Into::into)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let asked = json!({ "name": request.name, "arguments": arguments });
        let prompt = async |_| {
            let prompt = prompts::find(self.shared.prompts()?, &request.name).map_err(error_data)?;
            let text = prompt.task(&arguments).map_err(error_data)?;
            let bytes = text.len();
            let result = GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]);
            Ok((result.with_description(prompt.description), bytes))
        };
        self.audited(&context, "prompts/get", asked, prompt).await.map(Into::into)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let argument = &request.argument;
        let service = &self.shared.service;
        let (of, named) = match &request.r#ref {
            Reference::Resource(template) => {
                let resources = service.resources.as_ref();
                (&template.uri, resources.and_then(|all| all.argument(&template.uri, &argument.name)))
            }
            Reference::Prompt(prompt) => {
                (&prompt.name, prompts::argument(service.prompts, &prompt.name, &argument.name))
            }
            _ => return Err(ErrorData::invalid_params("ref is neither of a prompt nor of a resource", None)),
        };
        let asked = json!({ "ref": of, "argument": argument.name, "value": argument.value });
        let names = async |call| {
            self.shared.resources()?;
            let unknown = || ErrorData::invalid_params("there is no such argument to complete", None);
            self.names(named.ok_or_else(unknown)?, &argument.value, call).await
        };
        self.audited(&context, "completion/complete", asked, names).await
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let asked = json!({ "uri": request.uri });
        let subscribe = async |call: Call| {
            let resources = self.shared.resources()?;
            if resources.find(&request.uri).is_none() {
                let data = Some(asked.clone());
                return Err(ErrorData::resource_not_found("no such resource", data));
            }
            self.subscriptions.add(request.uri.clone(), &self.shared, &call.principal, &context.peer)?;
            Ok(((), 0))
        };
        self.audited(&context, "resources/subscribe", asked.clone(), subscribe).await
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscriptions.remove(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        let uris = requested.resource_subscriptions.iter().flatten().cloned();
        let resources = self.shared.service.resources.as_ref()?;
        let accepted = subscriptions::accepted(resources, uris);
        Some(SubscriptionFilter::builder().resource_subscriptions(accepted).build())
    }

    async fn listen(&self, stream: SubscriptionContext) -> Result<(), ErrorData> {
        let uris = stream.accepted().resource_subscriptions.clone().unwrap_or_default();
        let (resources, sink) = (self.shared.resources()?, stream.sink());
        let principal = self.principal(stream.request_context())?;
        let mut news = subscriptions::News::new(resources.follow(&principal));
        let permit = async |_| {
            let full =
                || ErrorData::internal_error(format!("{STREAMS_AT_ONCE} streams are open already"), None);
            self.shared.streams.try_acquire().map(|permit| (permit, 0)).map_err(|_| full())
        };
        let context = stream.request_context();
        let _permit = self.audited(context, "subscriptions/listen", json!({ "uris": uris }), permit).await?;
        let uris: subscriptions::Uris = uris.into_iter().take(MAX_SUBSCRIPTIONS).collect();
        let tell = async {
            while let Some(changes) = news.next().await {
                for uri in subscriptions::touched(resources, &uris, &changes) {
                    if sink.notify_resource_updated(uri).await.is_err() {
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = tell => {}
            () = stream.cancelled() => {}
            () = self.shared.stop.cancelled() => {}
            () = tokio::time::sleep(STREAM_AT_MOST) => {}
        }
        Ok(())
    }

    /// What rmcp cannot read as a request that it knows: a method that there is not, or one whose parameters have another shape.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let started = Instant::now();
        let principal = self.principal(&context)?;
        let method = names::text(&request.method, 100);
        let mut event = self.event(&context, &principal, &method);
        let parameters = request.params.unwrap_or_default();
        event.tool = parameters.get("name").and_then(Value::as_str).map(|name| names::text(name, 100));
        note_arguments(&mut event, parameters.get("arguments").cloned().unwrap_or_default(), false);
        let version = context.meta.protocol_version();
        let is_legacy = version.is_none_or(|version| version < ProtocolVersion::V_2026_07_28);
        let error = match is_served(&self.shared.service, &request.method, is_legacy) {
            true => ErrorData::invalid_params(shape_of(&request.method), None),
            false => ErrorData::new(ErrorCode::METHOD_NOT_FOUND, method, None),
        };
        event.outcome =
            if error.code == ErrorCode::METHOD_NOT_FOUND { "unknown method" } else { "invalid" }.to_owned();
        event.duration_ms = milliseconds(started.elapsed());
        let _ = self.shared.auditor.write(event).await;
        Err(error)
    }

    fn get_tool(&self, name: &str) -> Option<Definition> {
        self.shared.service.tool(name).map(|tool| tool.definition().clone())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let started = Instant::now();
        let service = &self.shared.service;
        let principal = self.principal(&context)?;
        let arguments = request.arguments.unwrap_or_default();
        let tool = service.tool(&request.name);
        let mut event = self.event(&context, &principal, "tools/call");
        event.tool = Some(names::text(&request.name, 100));
        let shown = tool.is_some_and(|tool| tool.knows_all(&arguments));
        note_arguments(&mut event, arguments.clone().into(), shown);
        let Some(tool) = tool else {
            event.outcome = "unknown tool".to_owned();
            if self.shared.auditor.write(event).await.is_err() {
                return Ok(refused());
            }
            let hint = suggest::did_you_mean(&request.name, service.tools.iter().map(Tool::name));
            let name = names::text(&request.name, 100);
            return Err(ErrorData::invalid_params(format!("unknown tool {name:?}{hint}"), None));
        };
        if !principal.may(self.shared.scope) {
            (event.decision, event.outcome) = (Decision::Deny, "insufficient scope".to_owned());
            let denied = CallToolResult::error(vec![ContentBlock::text(self.shared.lacks_scope())]);
            let written = self.shared.auditor.write(event).await;
            return Ok(written.map_or_else(|Unwritten| refused(), |()| denied.into()));
        }
        let call = self.call(&context, principal, event);
        let line = Arc::clone(&call.line);
        let outcome = tokio::select! {
            outcome = self.answer(tool, call, arguments) => outcome,
            never = tell_progress(&context, started) => match never {},
            () = context.ct.cancelled() => Outcome {
                result: CallToolResult::error(vec![ContentBlock::text("cancelled")]),
                name: "cancelled",
                bytes: 0,
            },
        };
        let mut event = line.event();
        if outcome.name == DENIED {
            event.decision = Decision::Deny;
        }
        (event.outcome, event.result_bytes) = (outcome.name.to_owned(), outcome.bytes);
        event.duration_ms = milliseconds(started.elapsed());
        let written = line.write(event).await;
        Ok(written.map_or_else(|Unwritten| refused(), |()| outcome.result.into()))
    }
}

/// In place of an answer whose line is not in the audit log.
fn refused() -> CallToolResponse {
    CallToolResult::error(vec![ContentBlock::text(Unwritten::WHY)]).into()
}
