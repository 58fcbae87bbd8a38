//! The resources, one file each: what a client can read or attach by its URI. A resource is the answer of a tool under a
//! name of its own, the same compact JSON. A new one is a new file and a line in [`resources!`] below.
//!
//! Invariant: reading a resource shows nothing that no tool shows.

mod uri;

use std::sync::Arc;

use rmcp::model::{JsonObject, Resource as Definition, ResourceTemplate as TemplateDefinition};
use serde_json::Value;

use crate::answer::{ToolError, names};
use crate::changes::Change;
use crate::tools::{self, Answered};
use crate::view::ClusterView;

pub const MIME_TYPE: &str = "application/json";

/// What a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Topic,
    Group,
}

/// A resource, or a template of many.
#[derive(Debug)]
pub struct Resource {
    /// Without its scheme. What stands in braces at its end is for a name.
    uri: &'static str,
    name: &'static str,
    title: &'static str,
    /// For the agent.
    description: &'static str,
    named: Option<Named>,
    /// The tool whose answer it is, and the arguments for a name.
    tool: &'static str,
    arguments: fn(&str) -> Value,
    /// Whether a change is one of this resource, given its name.
    shows: fn(&Change, &str) -> bool,
}

macro_rules! resources {
    ($($module:ident,)*) => {
        $(mod $module;)*
        /// Every resource and template, in the order in which they are listed.
        static RESOURCES: &[&Resource] = &[$(&$module::RESOURCE),*];
    };
}

resources! {
    cluster,
    topics,
    groups,
    topic,
    group,
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

/// What resources/list tells.
pub fn definitions() -> Vec<Definition> {
    let plain = RESOURCES.iter().filter(|r| r.named.is_none());
    plain
        .map(|r| {
            Definition::new(uri::with_scheme(r.uri), r.name)
                .with_title(r.title)
                .with_description(r.description)
                .with_mime_type(MIME_TYPE)
        })
        .collect()
}

/// What resources/templates/list tells.
pub fn templates() -> Vec<TemplateDefinition> {
    let templates = RESOURCES.iter().filter(|r| r.named.is_some());
    templates
        .map(|r| {
            TemplateDefinition::new(uri::with_scheme(r.uri), r.name)
                .with_title(r.title)
                .with_description(r.description)
                .with_mime_type(MIME_TYPE)
        })
        .collect()
}

/// The resource of a URI, and the name in it, which is empty where there is none.
pub fn find(uri: &str) -> Option<(&'static Resource, String)> {
    let path = uri::without_scheme(uri)?;
    RESOURCES.iter().find_map(|resource| match resource.named {
        None => (path == resource.uri).then(|| (*resource, String::new())),
        Some(_) => {
            let name = uri::decode(path.strip_prefix(resource.stem())?)?;
            Some((*resource, name))
        }
    })
}

/// Whether a change is one of what a URI names.
pub fn is_touched(uri: &str, change: &Change) -> bool {
    *change == Change::Everything || find(uri).is_some_and(|(resource, name)| (resource.shows)(change, &name))
}

/// What the argument of a template is a name of.
pub fn argument(template: &str, argument: &str) -> Option<Named> {
    let path = uri::without_scheme(template)?;
    let resource = RESOURCES.iter().find(|resource| resource.uri == path)?;
    resource.named.filter(|_| resource.placeholder() == Some(argument))
}

/// The content of a resource.
pub async fn read(
    resource: &'static Resource,
    name: &str,
    view: Arc<ClusterView>,
) -> Result<Answered, ToolError> {
    let tool = tools::find(resource.tool).expect("a resource names a tool that there is");
    let arguments: JsonObject = serde_json::from_value((resource.arguments)(name)).unwrap_or_default();
    tool.call(view, arguments).await
}

/// The names that begin with a text, at most `limit` of them, and how many there are.
pub async fn names_of(
    named: Named,
    prefix: &str,
    limit: usize,
    view: &ClusterView,
) -> Result<(Vec<String>, usize), ToolError> {
    let pick = |names: &mut dyn Iterator<Item = &String>| {
        let mut all = names.map(|name| names::shown(name)).filter(|name| name.starts_with(prefix));
        let first: Vec<String> = all.by_ref().take(limit).map(std::borrow::Cow::into_owned).collect();
        let rest = all.count();
        let total = first.len() + rest;
        (first, total)
    };
    Ok(match named {
        Named::Topic => pick(&mut view.topics().await?.value.by_name.keys()),
        Named::Group => pick(&mut view.groups().await?.value.by_id.keys()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_is_the_answer_of_a_tool_and_found_by_its_uri() {
        for resource in RESOURCES {
            let tool = tools::find(resource.tool).unwrap_or_else(|| panic!("{resource:?}"));
            let arguments = (resource.arguments)("orders");
            for argument in arguments.as_object().unwrap().keys() {
                let properties = &tool.definition().input_schema["properties"];
                assert!(properties.get(argument).is_some(), "{resource:?}: {argument}");
            }
            assert_eq!(resource.named.is_some(), resource.placeholder().is_some(), "{resource:?}");
            let uri =
                uri::with_scheme(&format!("{}{}", resource.stem(), resource.named.map_or("", |_| "orders")));
            assert!(std::ptr::eq(find(&uri).unwrap().0, *resource), "{uri}");
        }
    }

    #[test]
    fn names_are_percent_encoded_and_foreign_uris_are_not_found() {
        assert_eq!(find("kafscale://groups/a%2Fb%0A").unwrap().1, "a/b\n");
        assert_eq!(find("kafscale://topics/or%64ers").unwrap().1, "orders");
        for uri in [
            "kafscale://topics/",
            "kafscale://topics/a/b",
            "kafscale://topics/%zz",
            "kafscale://topics/%ff",
            "kafscale://topics/a?x",
            "kafscale://cluster/",
            "kafscale://",
            "file:///topics",
            "",
        ] {
            assert!(find(uri).is_none(), "{uri}");
        }
    }

    #[test]
    fn a_change_touches_what_shows_it() {
        let group = Change::Group("a b".into());
        assert!(is_touched("kafscale://groups/a%20b", &group) && is_touched("kafscale://groups", &group));
        assert!(is_touched("kafscale://cluster", &group));
        assert!(!is_touched("kafscale://groups/a", &group) && !is_touched("kafscale://topics", &group));
        assert!(is_touched("kafscale://topics/t", &Change::Leaders));
        assert!(is_touched("kafscale://topics", &Change::Everything));
    }

    #[test]
    fn the_arguments_of_templates_are_names() {
        assert_eq!(argument("kafscale://topics/{topic}", "topic"), Some(Named::Topic));
        assert_eq!(argument("kafscale://groups/{group}", "group"), Some(Named::Group));
        assert_eq!(argument("kafscale://groups/{group}", "topic"), None);
        assert_eq!(argument("kafscale://groups", "group"), None);
    }
}
