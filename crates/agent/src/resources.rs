//! Resources: what a client can read or attach by its URI. A resource is the answer of a tool under a name of its own, the same
//! compact JSON.
//!
//! Invariant: reading a resource shows nothing that no tool shows.

use std::fmt;
use std::pin::Pin;

use kafscale_identity::Principal;
use rmcp::model::{CompletionInfo, Resource as Definition, ResourceTemplate as TemplateDefinition};
use serde_json::Value;
use tokio::sync::broadcast;

use crate::answer::ToolError;
use crate::call::Call;
use crate::changes::{Change, Changes};
use crate::uri;

pub(crate) const MIME_TYPE: &str = "application/json";

/// What a name is of, in the server's own word: `topic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named(pub &'static str);

/// A resource, or a template of many.
#[derive(Debug)]
pub struct Resource {
    /// Without its scheme. What stands in braces at its end is for a name.
    pub uri: &'static str,
    pub name: &'static str,
    pub title: &'static str,
    /// For the agent.
    pub description: &'static str,
    /// Of a template.
    pub named: Option<Named>,
    /// The tool whose answer it is, and the arguments for a name.
    pub tool: &'static str,
    pub arguments: fn(&str) -> Value,
    /// Whether a change of this kind and name is one of this resource, given its own name.
    pub shows: fn(Named, &str, &str) -> bool,
}

/// The names that an argument may be completed to, and how many there are.
#[derive(Clone, Debug, Default)]
pub struct Completed {
    pub first: Vec<String>,
    pub total: usize,
}

impl Completed {
    /// Those that begin with a text.
    pub fn of(names: impl Iterator<Item = impl AsRef<str>>, prefix: &str) -> Self {
        let mut all = names.filter(|name| name.as_ref().starts_with(prefix));
        let first: Vec<String> =
            all.by_ref().take(CompletionInfo::MAX_VALUES).map(|name| name.as_ref().to_owned()).collect();
        let rest = all.count();
        Self { total: first.len() + rest, first }
    }
}

type Completing = Pin<Box<dyn Future<Output = Result<Completed, ToolError>> + Send>>;

/// See the file's comment.
pub struct Resources {
    /// With `://` at its end.
    scheme: &'static str,
    /// In the order in which they are listed.
    all: &'static [&'static Resource],
    complete: Box<dyn Fn(Call, Named, String) -> Completing + Send + Sync>,
    changes: Box<dyn Fn(&Principal) -> Changes + Send + Sync>,
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resources").field("scheme", &self.scheme).field("all", &self.all).finish()
    }
}

impl Resource {
    /// The part before the name, with a slash at its end; for a resource without one the whole.
    fn stem(&self) -> &'static str {
        self.uri.split('{').next().unwrap_or(self.uri)
    }

    /// The placeholder of a template.
    fn placeholder(&self) -> Option<&'static str> {
        self.uri.split_once('{').map(|(_, rest)| rest.trim_end_matches('}'))
    }
}

impl Resources {
    /// Resources below `scheme` (`kafscale://`). `complete` finds names that begin with a text, for a caller; whoever subscribed is told
    /// of the `changes` that are for it.
    pub fn new<F>(
        scheme: &'static str,
        all: &'static [&'static Resource],
        changes: impl Fn(&Principal) -> Changes + Send + Sync + 'static,
        complete: impl Fn(Call, Named, String) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Completed, ToolError>> + Send + 'static,
    {
        let complete = move |call: Call, named: Named, prefix: String| -> Completing {
            Box::pin(complete(call, named, prefix))
        };
        Self { scheme, all, complete: Box::new(complete), changes: Box::new(changes) }
    }

    /// The changes from now on that are for a caller.
    pub(crate) fn follow(&self, principal: &Principal) -> broadcast::Receiver<Change> {
        (self.changes)(principal).follow()
    }

    /// What resources/list tells.
    pub(crate) fn definitions(&self) -> Vec<Definition> {
        let plain = self.all.iter().filter(|r| r.named.is_none());
        plain
            .map(|r| {
                Definition::new(format!("{}{}", self.scheme, r.uri), r.name)
                    .with_title(r.title)
                    .with_description(r.description)
                    .with_mime_type(MIME_TYPE)
            })
            .collect()
    }

    /// What resources/templates/list tells.
    pub(crate) fn templates(&self) -> Vec<TemplateDefinition> {
        let templates = self.all.iter().filter(|r| r.named.is_some());
        templates
            .map(|r| {
                TemplateDefinition::new(format!("{}{}", self.scheme, r.uri), r.name)
                    .with_title(r.title)
                    .with_description(r.description)
                    .with_mime_type(MIME_TYPE)
            })
            .collect()
    }

    /// The resource of a URI, and the name in it, which is empty where there is none.
    pub fn find(&self, uri: &str) -> Option<(&'static Resource, String)> {
        let path = uri::path(uri, self.scheme)?;
        self.all.iter().find_map(|resource| match resource.named {
            None => (path == resource.uri).then(|| (*resource, String::new())),
            Some(_) => {
                let name = uri::decode(path.strip_prefix(resource.stem())?)?;
                Some((*resource, name))
            }
        })
    }

    /// Whether a change is one of what a URI names.
    pub fn is_touched(&self, uri: &str, change: &Change) -> bool {
        match change {
            Change::Everything => true,
            Change::Of(kind, changed) => {
                self.find(uri).is_some_and(|(resource, name)| (resource.shows)(*kind, changed, &name))
            }
        }
    }

    /// What the argument of a template is a name of.
    pub fn argument(&self, template: &str, argument: &str) -> Option<Named> {
        let path = uri::path(template, self.scheme)?;
        let resource = self.all.iter().find(|resource| resource.uri == path)?;
        resource.named.filter(|_| resource.placeholder() == Some(argument))
    }

    /// The names that begin with a text.
    pub(crate) async fn complete(
        &self,
        call: Call,
        named: Named,
        prefix: &str,
    ) -> Result<Completed, ToolError> {
        (self.complete)(call, named, prefix.to_owned()).await
    }
}
