//! The resources, one file each: what a client can read or attach by its URI. A resource is the answer of a tool under a
//! name of its own. A new one is a new file and a line in [`resources!`] below.

use std::sync::Arc;

use kafscale_agent::identity::Principal;
use kafscale_agent::{Call, Completed, Named, Resource, Resources};

use crate::answer::{ToolError, names};
use crate::cluster::Cluster;
use crate::view::sight::View;

pub const TOPIC: Named = Named("topic");
pub const GROUP: Named = Named("group");

const SCHEME: &str = "kafscale://";

macro_rules! resources {
    ($($module:ident,)*) => {
        $(mod $module;)*
        /// Every resource and template, in the order in which they are listed.
        static ALL: &[&Resource] = &[$(&$module::RESOURCE),*];
    };
}

resources! {
    cluster,
    topics,
    groups,
    topic,
    group,
}

/// The resources over a cluster, of which each caller sees what the policy says.
pub fn of(cluster: &Arc<Cluster>) -> Resources {
    let (told, asked) = (Arc::clone(cluster), Arc::clone(cluster));
    let changes = move |principal: &Principal| told.changes_for(principal);
    Resources::new(SCHEME, ALL, changes, move |call: Call, named, prefix: String| {
        let view = asked.seen_by(&call);
        async move { complete(&view, named, &prefix).await }
    })
}

/// The names that begin with a text.
async fn complete(view: &View, named: Named, prefix: &str) -> Result<Completed, ToolError> {
    let of = |names: &mut dyn Iterator<Item = &String>| {
        Completed::of(names.map(|name| names::shown(name)), prefix)
    };
    Ok(match named {
        TOPIC => of(&mut view.topics().await?.value.by_name.keys()),
        GROUP => of(&mut view.groups().await?.value.by_id.keys()),
        _ => Completed::default(),
    })
}

#[cfg(test)]
mod tests {
    use kafscale_agent::Change;

    use super::*;
    use crate::changes::LEADERS;
    use crate::tools;
    use crate::view::tests::nothing;

    fn resources() -> Resources {
        of(&nothing())
    }

    #[tokio::test]
    async fn every_resource_is_the_answer_of_a_tool_and_found_by_its_uri() {
        let (resources, tools) = (resources(), tools::all(&nothing()));
        for resource in ALL {
            let tool = tools.iter().find(|tool| tool.name() == resource.tool);
            let tool = tool.unwrap_or_else(|| panic!("{resource:?}"));
            let arguments = (resource.arguments)("orders");
            for argument in arguments.as_object().unwrap().keys() {
                let properties = &tool.definition().input_schema["properties"];
                assert!(properties.get(argument).is_some(), "{resource:?}: {argument}");
            }
            let template = resource.uri.split_once('{');
            assert_eq!(resource.named.is_some(), template.is_some(), "{resource:?}");
            let uri = template.map_or(resource.uri.to_owned(), |(stem, _)| format!("{stem}orders"));
            let found = resources.find(&format!("{SCHEME}{uri}")).unwrap().0;
            assert!(std::ptr::eq(found, *resource), "{uri}");
        }
    }

    #[tokio::test]
    async fn names_are_percent_encoded_and_foreign_uris_are_not_found() {
        let resources = resources();
        assert_eq!(resources.find("kafscale://groups/a%2Fb%0A").unwrap().1, "a/b\n");
        assert_eq!(resources.find("kafscale://topics/or%64ers").unwrap().1, "orders");
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
            assert!(resources.find(uri).is_none(), "{uri}");
        }
    }

    #[tokio::test]
    async fn a_change_touches_what_shows_it() {
        let resources = resources();
        let is_touched = |uri: &str, change: &Change| resources.is_touched(uri, change);
        let group = Change::Of(GROUP, "a b".into());
        assert!(is_touched("kafscale://groups/a%20b", &group) && is_touched("kafscale://groups", &group));
        assert!(is_touched("kafscale://cluster", &group));
        assert!(!is_touched("kafscale://groups/a", &group) && !is_touched("kafscale://topics", &group));
        assert!(is_touched("kafscale://topics/t", &Change::Of(LEADERS, "".into())));
        assert!(is_touched("kafscale://topics", &Change::Everything));
    }

    #[tokio::test]
    async fn the_arguments_of_templates_are_names() {
        let resources = resources();
        let argument = |template: &str, name: &str| resources.argument(template, name);
        assert_eq!(argument("kafscale://topics/{topic}", "topic"), Some(TOPIC));
        assert_eq!(argument("kafscale://groups/{group}", "group"), Some(GROUP));
        assert_eq!(argument("kafscale://groups/{group}", "topic"), None);
        assert_eq!(argument("kafscale://groups", "group"), None);
    }
}
